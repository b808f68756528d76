do $$
begin
  execute format('drop function %I.audit(text)', cordon.home());
end $$;
drop table audit_log;
