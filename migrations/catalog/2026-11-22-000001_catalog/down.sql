drop schema cordon_catalog cascade;
