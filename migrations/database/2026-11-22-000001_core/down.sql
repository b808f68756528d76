-- It is refused while tenant tables exist: dropping the functions would drop the tables' policies with them.
do $$
begin
  if exists (select from pg_policy where polname = 'tenant') then
    raise exception 'tenant tables are still enclosed by schema cordon: undo their migrations first';
  end if;
end $$;
drop schema cordon cascade;
