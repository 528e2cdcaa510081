.mode list
pragma journal_mode = wal;
create table if not exists start (id integer primary key, at text not null default current_timestamp);
begin immediate;
insert into start default values;
commit;
select 'starts: ' || count(*) from start;
select 'integrity: ' || integrity_check from pragma_integrity_check;
