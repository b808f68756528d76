drop schema cordon cascade;
