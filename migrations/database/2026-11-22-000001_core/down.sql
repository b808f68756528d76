-- Not while tables lean on it: dropping the functions would take their policies along.
do $$
begin
  if exists (select from pg_policy where polname = 'tenant') then
    raise exception 'tenant tables are still enclosed by schema cordon: undo their migrations first';
  end if;
end $$;
drop schema cordon cascade;
