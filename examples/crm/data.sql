-- Generated data for the example CRM: the same rows on every load, as seen on 1 November 2026.
-- All people and companies are invented. Phone numbers are from the ranges that the German Bundesnetzagentur
-- reserves for fiction (Austria's and the Netherlands' customers use them too), domains are reserved by RFC 2606.
set client_encoding = 'UTF8';

begin;

-- Dates are worked out in one time zone, so that no setting of the session changes a row.
set local time zone 'Europe/Vienna';
set local datestyle = 'ISO';
set local intervalstyle = 'postgres';

-- Helpers, gone with the session: choices that look random and are not.

create function pg_temp.as_of() returns timestamptz immutable language sql
return timestamptz '2026-11-01 12:00+01';

create function pg_temp.pick(n integer, salt text, size integer) returns integer immutable language sql
return ('x' || left(md5(salt || ':' || n), 7))::bit(28)::integer % size;

create function pg_temp.one_of(items text[], n integer, salt text) returns text immutable language sql
return items[1 + pg_temp.pick(n, salt, cardinality(items))];

-- Days before as_of of number i of n: more and more of everything as the business grows.
create function pg_temp.age(i integer, n integer, days integer) returns integer immutable language sql
return (1 + days::bigint * (n - i) * (n - i) * (n - i) / (n::bigint * n * n))::integer;

-- A working day, between 8 and 16 o'clock.
create function pg_temp.days_ago(days integer, n integer, salt text) returns timestamptz stable language sql
return (
  select day - make_interval(days => greatest(extract(isodow from day)::integer - 5, 0))
  from (
    select pg_temp.as_of() - make_interval(days => days) + make_interval(mins => pg_temp.pick(n, salt, 480) - 240) as day
  ) as moment
);

create function pg_temp.phone(n integer, salt text) returns text immutable language sql
return format(
  '%s %s',
  (array['+49 30 23125', '+49 69 90009', '+49 40 66969', '+49 221 4710', '+49 89 99998'])[1 + pg_temp.pick(n, salt, 5)],
  lpad(pg_temp.pick(n, salt || ' extension', 1000)::text, 3, '0')
);

create function pg_temp.slug(name text) returns text immutable language sql
return trim(
  both '-' from regexp_replace(
    translate(
      replace(replace(replace(replace(lower(name), 'ä', 'ae'), 'ö', 'oe'), 'ü', 'ue'), 'ß', 'ss'),
      'éèëï.', 'eeei'
    ),
    '[^a-z0-9]+', '-', 'g'
  )
);

-- A customer who already was one that many days ago; company 7 is everybody's favourite.
create function pg_temp.customer(n integer, salt text, days integer) returns integer immutable language sql
return case when n % 20 = 0 then 7 else 1 + pg_temp.pick(n, salt, least(48, (4480 - days) / 70)) end;

create function pg_temp.quantity(unit text, unit_price numeric, n integer, salt text) returns numeric immutable language sql
return case
  when unit = 'Pausch' then 1
  when unit in ('Std', 'm', 'kg') then (2 + pg_temp.pick(n, salt, 22)) / 2.0
  when unit_price > 500 then 1 + pg_temp.pick(n, salt, 2)
  else 1 + pg_temp.pick(n, salt, 6)
end;

-- That many bytes which look like a file of this type.
create function pg_temp.file_content(n integer, mime_type text, size integer) returns bytea immutable language sql
return (
  select
    case mime_type
      when 'application/pdf' then '\x255044462d312e370a'::bytea
      when 'image/jpeg' then '\xffd8ffe000104a46494600'::bytea
      else ''::bytea
    end || substr(string_agg(decode(md5('file:' || n || ':' || block), 'hex'), ''::bytea order by block), 1, size)
  from generate_series(1, (size + 15) / 16) as block
);

create temporary table pool (
  country char(2) primary key,
  tenant text not null,
  language char(2) not null,
  trades text[] not null,
  supplier_trades text[] not null,
  families text[] not null,
  forms text[] not null,
  towns text[] not null,
  streets text[] not null,
  women text[] not null,
  men text[] not null,
  surnames text[] not null
) on commit drop;

insert into pool
values
(
  'DE', 'regensburg', 'de',
  array['Bäckerei', 'Metzgerei', 'Autohaus', 'Tischlerei', 'Gasthof', 'Brauerei', 'Käserei', 'Hotel', 'Metallbau', 'Spedition'],
  array['Kältemittel-Großhandel', 'Ventilatorenbau', 'Filtertechnik', 'Pumpenwerk'],
  array[
    'Ahrendsen', 'Birkenfelder', 'Dornhagen', 'Eichelkamp', 'Falkenrieder', 'Grünspecht', 'Haferkamp', 'Immergrün',
    'Jungbluth', 'Kesselring', 'Lindenschmied', 'Mohnfelder', 'Nebelung', 'Osterloh', 'Pfefferkorn', 'Quellmalz',
    'Rosenhauer', 'Silberhorn', 'Tannenbichler', 'Uferkamp', 'Vogelsänger', 'Wacholder', 'Zaunkönig', 'Weidenröder'
  ],
  array['GmbH', 'KG', 'GmbH & Co. KG', 'OHG', 'e. K.'],
  array[
    '93047 Regensburg', '94032 Passau', '84028 Landshut', '92224 Amberg', '94315 Straubing', '95444 Bayreuth',
    '83022 Rosenheim', '85049 Ingolstadt', '90762 Fürth', '96047 Bamberg'
  ],
  array['Hauptstraße', 'Bahnhofstraße', 'Am Mühlbach', 'Gewerbepark', 'Lindenweg', 'Donauufer', 'Ziegeleistraße'],
  array['Anke', 'Birgit', 'Claudia', 'Dörte', 'Franziska', 'Heike', 'Jana', 'Katrin', 'Miriam', 'Sabine', 'Ulrike'],
  array['Andreas', 'Bernd', 'Dirk', 'Florian', 'Jürgen', 'Kai', 'Matthias', 'Oliver', 'Sönke', 'Thorsten', 'Uwe'],
  array[
    'Ackermann', 'Brückner', 'Dietz', 'Engelhardt', 'Förster', 'Gehrke', 'Hübner', 'Jahn', 'Kästner', 'Lorenz',
    'Marquardt', 'Nöll', 'Petersen', 'Reuter', 'Schröder', 'Thiele', 'Voß', 'Wendt', 'Zöllner'
  ]
),
(
  'AT', 'graz', 'de',
  array['Kellerei', 'Tischlerei', 'Gärtnerei', 'Bäckerei', 'Weingut', 'Fleischerei', 'Landgasthof', 'Molkerei', 'Konditorei', 'Obstbau'],
  array['Kältekomponenten', 'Lüftungstechnik', 'Regeltechnik', 'Rohrhandel'],
  array[
    'Almesbrunner', 'Brandlechner', 'Hollerbusch', 'Kirchengast', 'Edlbacher', 'Fuchsgruber', 'Gamsjäger', 'Hochreiter',
    'Innerhofer', 'Jausovec', 'Kogelnigg', 'Lärchbaumer', 'Marchfelder', 'Nussbaumer', 'Oberwalder', 'Pichlmayr',
    'Rabensteiner', 'Sonnleitner', 'Trattnig', 'Unterköfler', 'Veitschegger', 'Weinzettl', 'Zirbenegger', 'Steinkellner'
  ],
  array['KG', 'GmbH', 'e. U.', 'GmbH', 'OG'],
  array[
    '8010 Graz', '8200 Gleisdorf', '8330 Feldbach', '8430 Leibnitz', '8570 Voitsberg', '8600 Bruck an der Mur',
    '9020 Klagenfurt', '9500 Villach', '4020 Linz', '3100 St. Pölten'
  ],
  array['Hauptplatz', 'Grazer Straße', 'Kirchengasse', 'Industriestraße', 'Am Anger', 'Wiesenweg', 'Raabgasse'],
  array['Andrea', 'Barbara', 'Christina', 'Elfriede', 'Gerlinde', 'Ingrid', 'Johanna', 'Martina', 'Roswitha', 'Veronika'],
  array['Alois', 'Christoph', 'Ewald', 'Franz', 'Gernot', 'Herbert', 'Josef', 'Lukas', 'Markus', 'Reinhard', 'Wolfgang'],
  array[
    'Aigner', 'Baumgartner', 'Dorfer', 'Ebner', 'Fink', 'Gruber', 'Haas', 'Kainz', 'Lackner', 'Moser', 'Neuhold',
    'Pichler', 'Reisinger', 'Schwarz', 'Strobl', 'Thaler', 'Wagner', 'Zach'
  ]
),
(
  'NL', 'utrecht', 'nl',
  array['Bakkerij', 'Kwekerij', 'Slagerij', 'Zuivelhandel', 'Autobedrijf', 'Brouwerij', 'Restaurant', 'Visgroothandel'],
  array['Koeltechniek', 'Ventilatiegroothandel', 'Leidingwerk', 'Regeltechniek'],
  array[
    'Achterberg', 'Bloemendaal', 'Duinzicht', 'Elzenga', 'Grasveld', 'Hazelaar', 'Korenbloem', 'Lindeboom', 'Molenwijk',
    'Oosterveen', 'Rietveen', 'Zwaluwhof'
  ],
  array['B.V.', 'V.O.F.', 'B.V.', 'N.V.'],
  array['3511 AA Utrecht', '7411 AA Deventer', '3811 AA Amersfoort', '8011 AA Zwolle', '6811 AA Arnhem', '2611 AA Delft'],
  array['Dorpsstraat', 'Kerkstraat', 'Molenweg', 'Stationsplein', 'Havenkade', 'Industrieweg'],
  array['Anneke', 'Femke', 'Ilse', 'Lotte', 'Marieke', 'Sanne', 'Willemijn'],
  array['Bas', 'Daan', 'Gerrit', 'Jeroen', 'Maarten', 'Ruben', 'Sjoerd'],
  array['Bakker', 'van den Berg', 'Dekker', 'Hendriks', 'de Jong', 'Kuipers', 'Mulder', 'Postma', 'Smit', 'Visser', 'de Wit']
);

-- Users and products

insert into crm.app_user (login, full_name, email, role, permissions, settings, manager_id, active, created_at, last_login_at)
select
  pg_temp.slug(full_name), full_name, replace(pg_temp.slug(full_name), '-', '.') || '@example.com', role,
  case role
    when 'admin' then array['read', 'write', 'delete', 'configure']
    when 'accounting' then array['read', 'write', 'export']
    else array['read', 'write']
  end,
  jsonb_build_object('language', language, 'theme', case n % 3 when 0 then 'dark' else 'light' end),
  nullif(manager, n), n <> 11,
  pg_temp.days_ago(4500 - 250 * n, n, 'user'),
  case when n = 11 then pg_temp.days_ago(410, n, 'login') else pg_temp.days_ago(pg_temp.pick(n, 'login', 6) + 1, n, 'login') end
from (
  values
  (1, 'Renate Stadlober', 'admin'::crm.user_role, 1, 'de'),
  (2, 'Harald Zechner', 'sales', 1, 'de'),
  (3, 'Petra Unterweger', 'service', 1, 'de'),
  (4, 'Gudrun Leitgeb', 'accounting', 1, 'de'),
  (5, 'Stefan Kreuzer', 'sales', 2, 'de'),
  (6, 'Carmen Höfler', 'sales', 2, 'de'),
  (7, 'Pieter Terpstra', 'sales', 2, 'nl'),
  (8, 'Manfred Ortner', 'service', 3, 'de'),
  (9, 'Denise Kolb', 'service', 3, 'de'),
  (10, 'Joost Hofstra', 'service', 3, 'nl'),
  (11, 'Walter Fassbender', 'service', 3, 'de'),
  (12, 'Yvonne Prem', 'accounting', 4, 'de')
) as employee (n, full_name, role, manager, language)
order by n;

insert into crm.product (sku, name, unit, unit_price, attributes, active)
select
  format('%s-%s', kind, 1000 + 10 * row_number() over (order by n)), name, unit, price,
  case kind
    when 'G' then jsonb_build_object('warranty_months', 24, 'power_kw', round(0.4 + pg_temp.pick(n, 'power', 90) / 10.0, 1))
    when 'E' then jsonb_build_object('shelf', format('%s%s', chr(65 + n % 6), n))
    else '{}'
  end,
  n <> 13
from (
  values
  (1, 'G', 'Kühlzelle 6 m³', 'Stk', 4890.00), (2, 'G', 'Kühlzelle 12 m³', 'Stk', 7450.00),
  (3, 'G', 'Tiefkühlzelle 8 m³', 'Stk', 8990.00), (4, 'G', 'Kältesatz R290, 2 kW', 'Stk', 2380.00),
  (5, 'G', 'Kältesatz R744, 6 kW', 'Stk', 6120.00), (6, 'G', 'Verdampfer mit Abtauung', 'Stk', 1140.00),
  (7, 'G', 'Gewächshauslüfter 900 mm', 'Stk', 865.00), (8, 'G', 'Lüftungsgerät mit Wärmerückgewinnung', 'Stk', 5480.00),
  (9, 'G', 'Luftbefeuchter 40 l/h', 'Stk', 1990.00), (10, 'G', 'Klimaregler mit Fernzugriff', 'Stk', 745.00),
  (11, 'G', 'Kühltheke 2 m', 'Stk', 3650.00), (12, 'G', 'Schockfroster', 'Stk', 4270.00),
  (13, 'G', 'Kältesatz R404A, 4 kW', 'Stk', 3120.00), (14, 'G', 'Wärmepumpe 12 kW', 'Stk', 9350.00),
  (15, 'E', 'Filtersatz F7', 'Satz', 48.90), (16, 'E', 'Türdichtung, Meterware', 'm', 17.50),
  (17, 'E', 'Expansionsventil', 'Stk', 96.00), (18, 'E', 'Ventilatormotor', 'Stk', 212.00),
  (19, 'E', 'Temperaturfühler', 'Stk', 24.80), (20, 'E', 'Abtauheizung', 'Stk', 78.40),
  (21, 'E', 'Kältemittel R290', 'kg', 32.00), (22, 'E', 'Kältemittel R744', 'kg', 19.50),
  (23, 'E', 'Kupferrohr 15 mm', 'm', 11.20), (24, 'E', 'Keilriemen', 'Stk', 13.90),
  (25, 'S', 'Arbeitszeit Techniker', 'Std', 89.00), (26, 'S', 'Anfahrt', 'Pausch', 65.00),
  (27, 'S', 'Wartung laut Vertrag', 'Pausch', 390.00), (28, 'S', 'Dichtheitsprüfung', 'Pausch', 180.00),
  (29, 'S', 'Inbetriebnahme und Einschulung', 'Pausch', 540.00), (30, 'S', 'Entsorgung Altgerät', 'Stk', 120.00)
) as item (n, kind, name, unit, price)
order by n;

-- Companies and contacts: 48 customers, then 12 suppliers

insert into crm.company (
  tenant, customer_number, kind, name, industry, street, postal_code, town, country, phone, email, website, vat_id, tags,
  custom_fields, parent_id, owner_id, created_at, updated_at
)
select
  p.tenant, format('%s-%s', case when n > 48 then 'L' else 'K' end, 10000 + n),
  case when n > 48 then 'supplier' else 'customer' end::crm.company_kind, name, trade,
  format('%s %s', pg_temp.one_of(p.streets, n, 'street'), 1 + pg_temp.pick(n, 'house', 90)),
  substring(place from '^(\d+(?: [A-Z]{2})?) '), substring(place from '^\d+(?: [A-Z]{2})? (.*)$'), p.country,
  pg_temp.phone(n, 'company'), 'office@' || domain, 'https://www.' || domain,
  case p.country
    when 'AT' then 'ATU' || lpad(n::text, 8, '0')
    when 'NL' then format('NL%sB01', lpad(n::text, 9, '0'))
    else 'DE' || lpad(n::text, 9, '0')
  end,
  case
    when n > 48 then array['lieferant']
    when n % 6 = 1 then array['wartungsvertrag', 'stammkunde']
    when n % 4 = 0 then array['wartungsvertrag']
    else '{}'
  end,
  jsonb_build_object('payment_days', (array[14, 30, 30])[1 + n % 3], 'employees', 3 + pg_temp.pick(n, 'staff', 120)),
  case n when 22 then 12 when 33 then 18 when 38 then 18 end,
  case when p.country = 'NL' then 7 else (array[2, 5, 6])[1 + n % 3] end,
  pg_temp.days_ago(4500 - 70 * n, n, 'company'), pg_temp.days_ago(1 + pg_temp.pick(n, 'update', 290), n, 'update')
from generate_series(1, 60) as n
join pool as p on p.country = (array['DE', 'DE', 'AT', 'AT', 'NL'])[1 + n % 5]
cross join lateral (
  select
    case
      when p.country = 'NL' then (n + 1) / 5
      else 2 * (n / 5) + case n % 5 when 0 then 0 when 1 then 1 else n % 5 - 1 end
    end as k
) as rank
cross join lateral (
  select
    case
      when n > 48 then p.supplier_trades[1 + n % cardinality(p.supplier_trades)]
      else p.trades[1 + (k - 1) % cardinality(p.trades)]
    end as trade,
    p.families[1 + (k - 1) % cardinality(p.families)] as family,
    case when n = 7 then '8200 Gleisdorf' else pg_temp.one_of(p.towns, n, 'town') end as place
) as parts
cross join lateral (
  select
    format('%s %s %s', trade, family, p.forms[1 + k % cardinality(p.forms)]) as name,
    pg_temp.slug(trade || ' ' || family) || '.example.org' as domain
) as named
order by n;

insert into crm.contact (
  company_id, salutation, first_name, last_name, job_title, email, phone, birthday, language, newsletter, interests, note, created_at
)
select
  c.id,
  case when p.language = 'nl' then case when female then 'mevr.' else 'dhr.' end when female then 'Frau' else 'Herr' end,
  first_name, last_name,
  (array['Geschäftsführung', 'Einkauf', 'Technik'])[k],
  format('%s.%s@%s', pg_temp.slug(first_name), pg_temp.slug(last_name), split_part(c.email, '@', 2)),
  pg_temp.phone(n, 'contact'),
  case when n % 3 > 0 then date '1958-03-01' + pg_temp.pick(n, 'birthday', 15500) end,
  p.language, n % 4 = 0,
  case n % 5 when 0 then array['förderungen', 'wärmepumpen'] when 3 then array['kältetechnik'] else '{}' end,
  case n % 9 when 4 then 'Am besten vormittags erreichbar.' when 7 then 'Will Angebote nur per E-Mail.' end,
  c.created_at + make_interval(days => 30 * (k - 1), mins => 10)
from crm.company as c
join pool as p on p.country = c.country
cross join lateral generate_series(1, 2 + c.id % 2) as k
cross join lateral (select 3 * c.id + k as n, pg_temp.pick(3 * c.id + k, 'sex', 2) = 0 as female) as person
cross join lateral (
  select
    pg_temp.one_of(case when female then p.women else p.men end, n, 'first name') as first_name,
    case
      when k = 1 and c.kind = 'customer' then split_part(c.name, ' ', 2)
      else pg_temp.one_of(p.surnames, n, 'surname')
    end as last_name
) as names
order by c.id, k;

update crm.company as c
set main_contact_id = (select min(p.id) from crm.contact as p where p.company_id = c.id);

-- Leads: the first 24 became companies 7 and 26 to 48

insert into crm.lead_status
values
('new', 'Neu', 1), ('contacted', 'Kontaktiert', 2), ('qualified', 'Qualifiziert', 3), ('on_hold', 'Später wieder', 4),
('no_interest', 'Kein Interesse', 5), ('converted', 'Kunde geworden', 6);

insert into crm.lead (
  status, source, company_name, first_name, last_name, email, phone, town, country, estimated_value, answers, consent,
  owner_id, company_id, created_at, last_contact_at, converted_at
)
select
  'converted', (enum_range(null::crm.lead_source))[1 + c.id % 5], c.name, p.first_name, p.last_name, p.email, p.phone, c.town,
  c.country, 500 * (1 + pg_temp.pick(c.id, 'value', 40)), '{"budget": "released", "decision": "this quarter"}', true,
  c.owner_id, c.id, c.created_at - interval '40 days', c.created_at - interval '3 hours', c.created_at
from crm.company as c
join crm.contact as p on p.id = c.main_contact_id
where c.id = 7 or c.id between 26 and 48
order by c.id;

insert into crm.lead (
  status, source, company_name, first_name, last_name, email, phone, town, country, estimated_value, answers, consent,
  owner_id, created_at, last_contact_at
)
select
  status, (enum_range(null::crm.lead_source))[1 + pg_temp.pick(n, 'source', 5)], company_name, first_name, last_name,
  format('%s.%s@%s.example.org', pg_temp.slug(first_name), pg_temp.slug(last_name), pg_temp.slug(last_name)),
  case when n % 4 > 0 then pg_temp.phone(n, 'lead') end,
  substring(pg_temp.one_of(p.towns, n, 'lead town') from '^\d+(?: [A-Z]{2})? (.*)$'), p.country,
  case when status in ('qualified', 'on_hold') then 500 * (1 + pg_temp.pick(n, 'value', 40)) end,
  case when status = 'no_interest'
    then jsonb_build_object('reason', pg_temp.one_of(array['price', 'competitor', 'no need', 'no answer'], n, 'reason'))
    else jsonb_build_object('wants', pg_temp.one_of(array['cold room', 'ventilation', 'service contract'], n, 'wants'))
  end,
  n % 3 > 0, case when p.country = 'NL' then 7 else (array[2, 5, 6])[1 + n % 3] end,
  created_at,
  case when status <> 'new' then least(created_at + make_interval(days => pg_temp.pick(n, 'last', 45)), pg_temp.as_of()) end
from generate_series(25, 120) as n
join pool as p on p.country = (array['AT', 'DE', 'AT', 'DE', 'NL'])[1 + n % 5]
cross join lateral (
  select
    case
      when n > 112 then 'new'
      else pg_temp.one_of(array['contacted', 'contacted', 'qualified', 'on_hold', 'no_interest', 'no_interest'], n, 'status')
    end as status,
    pg_temp.one_of(case n % 2 when 0 then p.women else p.men end, n, 'lead first name') as first_name,
    pg_temp.one_of(p.surnames, n, 'lead surname') as last_name,
    pg_temp.days_ago(pg_temp.age(n - 24, 96, 1400), n, 'lead') as created_at
) as person
cross join lateral (
  select case when n % 5 <> 2 then format('%s %s', pg_temp.one_of(p.trades, n, 'lead trade'), last_name) end as company_name
) as company
order by n;

-- Projects and serviced equipment

insert into crm.project (company_id, name, status, period, budget, milestones, manager_id, created_at)
select
  c.id,
  format('%s %s', pg_temp.one_of(jobs, n, 'job'), c.town),
  case
    when ends < pg_temp.as_of()::date then 'done'
    when n % 9 = 0 then 'on_hold'
    when starts > pg_temp.as_of()::date then 'planned'
    else 'running'
  end::crm.project_status,
  daterange(starts, ends), 2500 * (1 + pg_temp.pick(n, 'budget', 24)),
  jsonb_build_array(
    jsonb_build_object('name', 'Aufmaß', 'due', starts + 10), jsonb_build_object('name', 'Abnahme', 'due', ends - 5)
  ),
  (array[3, 8, 9])[1 + n % 3], starts - 35 + time '10:00'
from generate_series(1, 45) as n
join crm.company as c on c.id = pg_temp.customer(n, 'project', pg_temp.age(n, 45, 2400) + 25)
cross join (
  select array['Neubau Kühlraum', 'Umbau Lüftung', 'Tausch Kältesatz', 'Fernüberwachung', 'Verkaufsraum'] as jobs
) as job
cross join lateral (
  select (pg_temp.as_of() - make_interval(days => pg_temp.age(n, 45, 2400) - 30))::date as starts
) as start
cross join lateral (select starts + 40 + pg_temp.pick(n, 'duration', 160) as ends) as finish
order by n;

insert into crm.project_member (project_id, user_id, task)
select p.id, 8 + (p.id + k) % 4, (array['Montage', 'Elektrik', 'Planung'])[k]
from crm.project as p
cross join lateral generate_series(1, 2 + p.id % 2) as k
order by p.id, k;

insert into crm.service_object (
  company_id, product_id, part_of_id, serial_number, name, location, installed_on, next_service_on, technical_data
)
select
  c.id, p.id, null, format('SN%s-%s', to_char(installed, 'YY'), upper(left(md5('serial:' || n), 6))), p.name,
  pg_temp.one_of(array['Keller', 'Halle 1', 'Halle 2', 'Verkaufsraum', 'Dach', 'Lager'], n, 'location'), installed,
  case when n % 7 > 0 then date '2026-11-02' + pg_temp.pick(n, 'service', 330) end,
  jsonb_build_object('refrigerant', (array['R290', 'R744', 'R404A'])[1 + n % 3], 'charge_kg', 1 + n % 9, 'remote', n % 4 = 0)
from generate_series(1, 68) as n
join crm.company as c on c.id = pg_temp.customer(n, 'object', pg_temp.age(n, 68, 3000))
join crm.product as p on p.id = 1 + pg_temp.pick(n, 'device', 14)
cross join lateral (select pg_temp.days_ago(pg_temp.age(n, 68, 3000), n, 'object')::date as installed) as day
order by n;

insert into crm.service_object (company_id, product_id, part_of_id, serial_number, name, location, installed_on, next_service_on)
select o.company_id, 10, o.id, o.serial_number || '-R', 'Klimaregler', o.location, o.installed_on, o.next_service_on
from crm.service_object as o
where o.id % 5 = 0 and o.id <= 60
order by o.id;

-- Offers, orders, invoices: a good two thirds of the older offers become orders, delivered orders become invoices

create function pg_temp.contact_of(company integer, n integer) returns integer stable language sql
return (
  select id from crm.contact where company_id = company order by pg_temp.pick(n, 'contact of', 3) = (id % 3) desc, id limit 1
);

insert into crm.offer (number, company_id, contact_id, project_id, owner_id, status, offered_on, valid_until, note)
select
  'AN' || to_char(day, 'YY-') || lpad((row_number() over (partition by extract(year from day) order by day, n))::text, 3, '0'),
  c.id, pg_temp.contact_of(c.id, n), (select min(p.id) from crm.project as p where p.company_id = c.id and n % 3 = 0), c.owner_id,
  case
    when n > 88 then 'draft'
    when day > date '2026-10-05' then 'sent'
    else pg_temp.one_of(array['accepted', 'accepted', 'accepted', 'accepted', 'rejected', 'expired'], n, 'offer')
  end::crm.offer_status,
  day, day + 30,
  case n % 4 when 1 then 'Preise freibleibend, Lieferzeit rund sechs Wochen.' end
from generate_series(1, 90) as n
join crm.company as c on c.id = pg_temp.customer(n, 'offer', pg_temp.age(n, 90, 3400))
cross join lateral (select pg_temp.days_ago(pg_temp.age(n, 90, 3400), n, 'offer')::date as day) as offered
order by day, n;

insert into crm.offer_item (offer_id, position, product_id, description, quantity, unit_price, discount_percent)
select
  o.id, k, p.id, p.name, pg_temp.quantity(p.unit, p.unit_price, o.id * 7 + k, 'offer quantity'), p.unit_price,
  (array[0, 0, 0, 5, 7.5, 10])[1 + pg_temp.pick(o.id * 7 + k, 'discount', 6)]
from crm.offer as o
cross join lateral generate_series(1, 2 + pg_temp.pick(o.id, 'offer items', 3)) as k
join crm.product as p on p.id = 1 + (pg_temp.pick(o.id, 'offer product', 30) + 7 * k) % 30
order by o.id, k;

insert into crm.sales_order (
  number, company_id, contact_id, offer_id, project_id, owner_id, status, ordered_on, delivered_on, delivery_address
)
select
  'AB' || to_char(day, 'YY-') || lpad((row_number() over (partition by extract(year from day) order by day, offer_id, n))::text, 3, '0'),
  c.id, contact_id, offer_id, project_id, c.owner_id, status::crm.order_status, day,
  case status when 'delivered' then day + 4 + pg_temp.pick(n, 'delivery', 10) end,
  case when n % 6 = 0 then jsonb_build_object('name', c.name, 'gate', 'Lieferanteneingang', 'town', c.town) end
from (
  select
    o.id as n, o.company_id, o.contact_id, o.id as offer_id, o.project_id,
    least(o.offered_on + 3 + pg_temp.pick(o.id, 'order', 20), pg_temp.as_of()::date) as day
  from crm.offer as o
  where o.status = 'accepted'
  union all
  select
    100 + i, pg_temp.customer(i, 'order', pg_temp.age(i, 70, 3300)),
    pg_temp.contact_of(pg_temp.customer(i, 'order', pg_temp.age(i, 70, 3300)), i), null, null,
    pg_temp.days_ago(pg_temp.age(i, 70, 3300), i, 'order')::date
  from generate_series(1, 70) as i
) as source
join crm.company as c on c.id = source.company_id
cross join lateral (
  select
    case
      when day > date '2026-10-20' then 'open'
      when day > date '2026-10-10' then 'in_delivery'
      when n % 17 = 3 then 'cancelled'
      else 'delivered'
    end as status
) as state
order by day, offer_id, n;

insert into crm.sales_order_item (sales_order_id, position, product_id, description, quantity, unit_price, discount_percent)
select o.id, i.position, i.product_id, i.description, i.quantity, i.unit_price, i.discount_percent
from crm.sales_order as o
join crm.offer_item as i on i.offer_id = o.offer_id
order by o.id, i.position;

insert into crm.sales_order_item (sales_order_id, position, product_id, description, quantity, unit_price)
select o.id, k, p.id, p.name, pg_temp.quantity(p.unit, p.unit_price, o.id * 7 + k, 'order quantity'), p.unit_price
from crm.sales_order as o
cross join lateral generate_series(1, 2 + pg_temp.pick(o.id, 'order items', 3)) as k
join crm.product as p on p.id = 1 + (pg_temp.pick(o.id, 'order product', 30) + 7 * k) % 30
where o.offer_id is null
order by o.id, k;

insert into crm.invoice (number, company_id, contact_id, sales_order_id, status, invoiced_on, due_on, paid_at, reminders, note)
select
  to_char(day, 'YYYY-') || lpad((row_number() over (partition by extract(year from day) order by day, n))::text, 4, '0'),
  company_id, contact_id, sales_order_id,
  case when cancelled then 'cancelled' when paid then 'paid' else 'open' end::crm.invoice_status, day, day + days,
  case when paid and not cancelled then paid_at end,
  case when not paid and not cancelled then greatest(least((pg_temp.as_of()::date - day - days) / 14, 3), 0) else 0 end,
  case when sales_order_id is null then 'Serviceeinsatz laut Arbeitsbericht.' end
from (
  select
    o.id as n, o.company_id, o.contact_id, o.id as sales_order_id,
    least(o.delivered_on + 1 + pg_temp.pick(o.id, 'invoice', 8), date '2026-10-30') as day
  from crm.sales_order as o
  where o.status = 'delivered'
  union all
  select
    200 + i, pg_temp.customer(i, 'invoice', pg_temp.age(i, 125, 3450)),
    pg_temp.contact_of(pg_temp.customer(i, 'invoice', pg_temp.age(i, 125, 3450)), i), null,
    pg_temp.days_ago(pg_temp.age(i, 125, 3450), i, 'invoice')::date
  from generate_series(1, 125) as i
) as source
join crm.company as c on c.id = source.company_id
cross join lateral (
  select
    (c.custom_fields ->> 'payment_days')::integer as days,
    day + 2 + pg_temp.pick(n, 'paid', 40) + time '06:30' + make_interval(mins => pg_temp.pick(n, 'paid at', 600)) as paid_at,
    n % 41 = 5 and day < date '2026-09-01' as cancelled
) as terms
cross join lateral (select paid_at < pg_temp.as_of() and not (n % 13 = 4 and day > date '2026-06-01') as paid) as payment
order by day, n;

insert into crm.invoice_item (invoice_id, position, product_id, description, quantity, unit_price, discount_percent, vat_rate)
select
  v.id, i.position, i.product_id, i.description, i.quantity, i.unit_price, i.discount_percent,
  case c.country when 'AT' then 20 else 0 end
from crm.invoice as v
join crm.company as c on c.id = v.company_id
join crm.sales_order_item as i on i.sales_order_id = v.sales_order_id
order by v.id, i.position;

insert into crm.invoice_item (invoice_id, position, product_id, description, quantity, unit_price, vat_rate)
select
  v.id, k, p.id, p.name, pg_temp.quantity(p.unit, p.unit_price, v.id * 7 + k, 'invoice quantity'), p.unit_price,
  case c.country when 'AT' then 20 else 0 end
from crm.invoice as v
join crm.company as c on c.id = v.company_id
cross join lateral generate_series(1, 2 + pg_temp.pick(v.id, 'invoice items', 3)) as k
join crm.product as p on p.id = 15 + (pg_temp.pick(v.id, 'invoice product', 16) + 5 * k) % 16
where v.sales_order_id is null
order by v.id, k;

update crm.invoice as v
set net_total = total.net, vat_total = total.vat
from (
  select invoice_id, sum(line_total) as net, sum(round(line_total * vat_rate / 100, 2)) as vat
  from crm.invoice_item
  group by invoice_id
) as total
where total.invoice_id = v.id;

update crm.invoice as v
set corrects_id = cancelled.id
from crm.invoice as cancelled
where
  cancelled.status = 'cancelled'
  and v.id = (select min(next.id) from crm.invoice as next where next.company_id = cancelled.company_id and next.id > cancelled.id);

-- Some purchases are for a customer's order, never for one of company 7
insert into crm.purchase_order (number, supplier_id, sales_order_id, ordered_by_id, status, ordered_on, delivered_on)
select
  'BE' || to_char(day, 'YY-') || lpad((row_number() over (partition by extract(year from day) order by day, n))::text, 3, '0'),
  49 + pg_temp.pick(n, 'supplier', 12), for_order, (array[2, 3, 5])[1 + n % 3],
  case when day > date '2026-10-15' then 'open' else 'delivered' end::crm.order_status, day,
  case when day <= date '2026-10-15' then day + 3 + n % 9 end
from generate_series(1, 40) as n
cross join lateral (select pg_temp.days_ago(pg_temp.age(n, 40, 280), n, 'purchase')::date as day) as ordered
cross join lateral (
  select
    case when n % 2 = 0 then (
      select max(o.id) from crm.sales_order as o where o.ordered_on <= day and o.company_id <> 7 and o.status <> 'cancelled'
    ) end as for_order
) as purpose
order by day, n;

insert into crm.purchase_order_item (purchase_order_id, position, product_id, quantity, unit_price)
select o.id, k, p.id, 1 + pg_temp.pick(o.id * 7 + k, 'purchase quantity', 20), round(p.unit_price * 0.62, 2)
from crm.purchase_order as o
cross join lateral generate_series(1, 2 + pg_temp.pick(o.id, 'purchase items', 3)) as k
join crm.product as p on p.id = 1 + (pg_temp.pick(o.id, 'purchase product', 24) + 5 * k) % 24
order by o.id, k;

-- Service

insert into crm.helpdesk_entry (
  number, company_id, contact_id, service_object_id, assigned_to_id, status, priority, subject, body, tags, opened_at, closed_at
)
select
  'HD-' || 20000 + n, c.id, pg_temp.contact_of(c.id, n),
  (
    select o.id from crm.service_object as o
    where o.company_id = c.id and o.part_of_id is null and o.installed_on < opened_at::date
    order by pg_temp.pick(n + o.id, 'faulty', 100), o.id limit 1
  ),
  (array[3, 8, 9, 10])[1 + n % 4],
  case
    when closed_at is not null then 'closed'
    when n > 118 then 'new'
    when n % 3 = 0 then 'waiting'
    else 'in_progress'
  end::crm.helpdesk_status,
  (enum_range(null::crm.helpdesk_priority))[1 + pg_temp.pick(n, 'priority', 4)], subject,
  format('%s Bitte um Rückruf unter %s.', body, c.phone),
  case when subject ~ 'Alarm|kühlt' then array['störung'] else '{}' end, opened_at, closed_at
from generate_series(1, 120) as n
join crm.company as c on c.id = pg_temp.customer(n, 'helpdesk', pg_temp.age(n, 120, 2200))
cross join lateral (
  select pg_temp.days_ago(pg_temp.age(n, 120, 2200), n, 'helpdesk') as opened_at, 1 + pg_temp.pick(n, 'fault', 6) as fault
) as report
cross join lateral (
  select
    (array[
      'Kühlzelle kühlt nicht', 'Alarm am Klimaregler', 'Lüfter laut', 'Wasser unter dem Verdampfer', 'Frage zur Wartung',
      'Fernzugriff gesperrt'
    ])[fault] as subject,
    (array[
      'Seit heute früh steigt die Temperatur, wir haben schon über 9 °C.',
      'Der Regler zeigt Fehler E17 und lässt sich nicht quittieren.',
      'Seit dem Wochenende ein Schleifgeräusch, vor allem beim Anlaufen.',
      'Jeden Morgen steht eine Lacke auf dem Boden, der Ablauf ist frei.',
      'Wann ist die nächste Wartung fällig, und was ist im Vertrag enthalten?',
      'Nach drei Versuchen ist der Zugang gesperrt, bitte zurücksetzen.'
    ])[fault] as body,
    case
      when opened_at < timestamptz '2026-10-01 00:00+02' and n % 19 > 0
        then opened_at + make_interval(hours => 2 + pg_temp.pick(n, 'closed', 400))
    end as closed_at
) as content
order by n;

insert into crm.helpdesk_comment (helpdesk_entry_id, author_id, body, internal, written_at)
select
  h.id, case when k = 2 then null else h.assigned_to_id end,
  (array[
    'Fehler aufgenommen, Termin wird abgestimmt.', 'Danke, morgen ab sieben Uhr ist jemand im Haus.',
    'Teil getauscht, Probelauf ohne Befund.'
  ])[k],
  k = 1 and h.id % 4 = 0, least(h.opened_at + make_interval(mins => 35 * k), h.closed_at)
from crm.helpdesk_entry as h
cross join lateral generate_series(1, case h.status when 'new' then 0 when 'closed' then 3 else 1 + h.id % 2 end) as k
order by h.id, k;

insert into crm.work_entry (
  company_id, user_id, helpdesk_entry_id, invoice_id, worked, hourly_rate, billable, description
)
select
  h.company_id, h.assigned_to_id, h.id,
  (select min(v.id) from crm.invoice as v where v.company_id = h.company_id and v.invoiced_on > h.closed_at::date),
  tstzrange(started, started + make_interval(mins => 15 * (2 + pg_temp.pick(h.id + k, 'minutes', 14)))), 89, h.id % 6 > 0,
  (array['Fehlersuche vor Ort', 'Reparatur und Probelauf'])[k]
from crm.helpdesk_entry as h
cross join lateral generate_series(1, 1 + h.id % 2) as k
cross join lateral (select h.opened_at + make_interval(mins => 60 * k) as started) as start
where h.status = 'closed'
order by h.id, k;

insert into crm.work_entry (company_id, user_id, project_id, worked, hourly_rate, description)
select
  p.company_id, m.user_id, p.id,
  tstzrange(started, started + make_interval(mins => 30 * (4 + pg_temp.pick(p.id + k, 'hours', 12)))), 78, m.task || ', ' || p.name
from crm.project as p
join crm.project_member as m on m.project_id = p.id
cross join lateral generate_series(1, 2) as k
cross join lateral (select (lower(p.period) + 5 * k + m.user_id) + time '07:00' as local_start) as day
cross join lateral (select local_start::timestamptz as started) as start
where started < pg_temp.as_of() - interval '1 day'
order by p.id, m.user_id, k;

-- E-mails: 200 threads of one to four messages, each answering the one before

insert into crm.email (message_id, direction, lead_id, contact_id, sender, recipients, subject, body, headers, sent_at)
select
  format('%s.%s@mail.example.com', thread, k), direction, lead_id, contact_id,
  case direction when 'incoming' then address else staff end,
  case direction when 'incoming' then array[staff] else array[address] end
  || case when thread % 8 = 0 then array['office@example.com'] else '{}' end,
  case when k > 1 then 'Re: ' else '' end || subject,
  format(
    e'%s %s\n\n%s\n\n%s\n%s', case language when 'nl' then 'Beste' else 'Guten Tag' end,
    case direction when 'incoming' then staff_name else person end,
    texts[1 + pg_temp.pick(thread + k, 'text', cardinality(texts))],
    case language when 'nl' then 'Met vriendelijke groet' else 'Mit freundlichen Grüßen' end,
    case direction when 'incoming' then person else staff_name end
  ),
  jsonb_build_object(
    'mailer', case direction when 'incoming' then 'Thunderbird' else 'CRM' end,
    'spam_score', round(pg_temp.pick(thread + k, 'spam', 30) / 10.0, 1)
  ),
  sent_at
from (
  select
    thread, l.id as lead_id, company.main_contact_id as contact_id, l.email as address,
    concat_ws(' ', l.first_name, l.last_name) as person, case l.country when 'NL' then 'nl' else 'de' end as language,
    l.owner_id, l.created_at + make_interval(days => pg_temp.pick(thread, 'mail', 12)) as started
  from generate_series(1, 200) as thread
  join crm.lead as l on l.id = 1 + pg_temp.pick(thread, 'mail lead', 120)
  left join crm.company as company on company.id = l.company_id
  where thread % 5 < 2
  union all
  select
    thread, null, p.id, p.email, p.first_name || ' ' || p.last_name, p.language, c.owner_id, pg_temp.days_ago(age, thread, 'mail')
  from generate_series(1, 200) as thread
  cross join lateral (select pg_temp.age(thread, 200, 2000) as age) as day
  join crm.contact as p
    on p.id = case thread % 15
      when 4 then 16 + thread % 3
      else 1 + pg_temp.pick(thread, 'mail contact', least(60, (4400 - age) / 70) * 5 / 2)
    end
  join crm.company as c on c.id = p.company_id
  where thread % 5 >= 2
) as conversation
join (select id as owner_id, email as staff, full_name as staff_name from crm.app_user) as colleague using (owner_id)
cross join lateral generate_series(1, 1 + thread % 4) as k
cross join lateral (
  select
    case (thread + k) % 2 when 0 then 'incoming' else 'outgoing' end::crm.email_direction as direction,
    least(started + make_interval(hours => 5 * k), pg_temp.as_of() - make_interval(mins => 600 - 60 * k)) as sent_at,
    pg_temp.one_of(
      case language
        when 'nl' then array['Offerte koelcel', 'Onderhoud 2026', 'Vraag over factuur', 'Afspraak ter plaatse']
        else array[
          'Angebot Kühlzelle', 'Wartungstermin', 'Frage zur Rechnung', 'Unterlagen Förderung', 'Liefertermin', 'Besuch nächste Woche'
        ]
      end,
      thread, 'subject'
    ) as subject,
    case language
      when 'nl' then array[
        'Dank voor het snelle antwoord, wij komen er deze week op terug.', 'Past dinsdag om tien uur ook voor u?',
        'In de bijlage vindt u de gevraagde gegevens.', 'Kunt u de prijs voor twee stuks nog eens bekijken?'
      ]
      else array[
        'Danke für die rasche Antwort, wir melden uns bis Ende der Woche.', 'Passt Ihnen auch Dienstag um zehn Uhr?',
        'Anbei die gewünschten Unterlagen. Bei Fragen bitte einfach anrufen.',
        'Können Sie uns den Preis für zwei Stück noch einmal rechnen?',
        'Der Techniker war heute da, es läuft alles wieder.', 'Bitte schicken Sie uns die Rechnung noch einmal als PDF.'
      ]
    end as texts
) as message
order by sent_at, thread, k;

update crm.email as reply
set reply_to_id = original.id
from crm.email as original
where
  original.message_id = format(
    '%s.%s@mail.example.com', split_part(reply.message_id, '.', 1), split_part(split_part(reply.message_id, '@', 1), '.', 2)::integer - 1
  );

-- Activities: call notes and the like

insert into crm.activity (kind, company_id, contact_id, lead_id, user_id, summary, details, happened_at)
select
  event.kind, c.id, case when n % 7 > 0 then pg_temp.contact_of(c.id, n) end, l.id, coalesce(c.owner_id, l.owner_id),
  case event.kind
    when 'call' then pg_temp.one_of(
      array[
        'Rückruf, Angebot besprochen', 'Nicht erreicht, auf Band gesprochen', 'Termin für Besichtigung vereinbart',
        'Zufrieden mit der Wartung'
      ],
      n, 'call'
    )
    when 'meeting' then 'Besprechung im Büro, Protokoll folgt'
    when 'visit' then 'Besichtigung vor Ort, Maße genommen'
    else pg_temp.one_of(
      array['Entscheidet erst nach der Saison', 'Zahlt pünktlich', 'Chef ist bis Monatsende auf Urlaub'], n, 'note'
    )
  end,
  case event.kind
    when 'call' then jsonb_build_object('minutes', 1 + pg_temp.pick(n, 'call time', 25), 'incoming', n % 2 = 0)
    else '{}'
  end,
  case
    when l.id is null then pg_temp.days_ago(age, n, 'activity')
    else least(l.created_at + make_interval(days => pg_temp.pick(n, 'lead call', 30)), pg_temp.as_of() - make_interval(hours => n % 40))
  end
from generate_series(1, 250) as n
cross join lateral (
  select
    pg_temp.age(n, 250, 1800) as age,
    pg_temp.one_of(array['call', 'call', 'call', 'meeting', 'visit', 'note'], n, 'kind')::crm.activity_kind as kind
) as event
left join crm.lead as l on n % 3 = 1 and l.id = 1 + pg_temp.pick(n, 'activity lead', 120)
left join crm.company as c on n % 3 <> 1 and c.id = pg_temp.customer(n, 'activity', age)
order by n;

-- Cash book: some invoices are paid in cash, never those of company 7

insert into crm.cash_book_entry (number, booked_on, kind, amount, description, invoice_id, user_id)
select
  'KB' || to_char(day, 'YY-') || lpad((row_number() over (partition by extract(year from day) order by day, kind, n))::text, 3, '0'),
  day, kind, amount, description, invoice_id, (array[4, 12])[1 + n % 2]
from (
  select
    v.id as n, v.paid_at::date as day, 'sale'::crm.cash_kind as kind, v.net_total + v.vat_total as amount,
    'Barzahlung Rechnung ' || v.number as description, v.id as invoice_id
  from crm.invoice as v
  where v.status = 'paid' and v.net_total < 600 and v.company_id <> 7 and v.invoiced_on > date '2019-01-01'
  union all
  select
    i, pg_temp.days_ago(pg_temp.age(i, 70, 1500), i, 'expense')::date, 'expense'::crm.cash_kind,
    -(300 + pg_temp.pick(i, 'expense', 9000)) / 100.0,
    pg_temp.one_of(array['Büromaterial', 'Porto', 'Parkgebühren', 'Bewirtung', 'Kleinteile Baumarkt', 'Treibstoff'], i, 'expense text'), null
  from generate_series(1, 70) as i
  union all
  select
    i, pg_temp.days_ago(pg_temp.age(i, 15, 1500), i, 'bank')::date,
    case i % 3 when 0 then 'deposit' else 'withdrawal' end::crm.cash_kind,
    case i % 3 when 0 then -500 else 400 end,
    case i % 3 when 0 then 'Einzahlung auf das Bankkonto' else 'Abhebung vom Bankkonto' end, null
  from generate_series(1, 15) as i
) as booking
order by day, kind, n;

-- Files

insert into crm.uploaded_file (
  company_id, lead_id, project_id, helpdesk_entry_id, name, mime_type, content, labels, uploaded_by_id, uploaded_at
)
select
  h.company_id, l.id, null, h.id, name, mime_type, pg_temp.file_content(n, mime_type, 600 + pg_temp.pick(n, 'size', 2400)),
  case when mime_type = 'image/jpeg' then array['foto'] else '{}' end, coalesce(h.assigned_to_id, l.owner_id),
  coalesce(h.opened_at + interval '25 minutes', l.created_at + interval '2 hours')
from generate_series(1, 36) as n
left join crm.helpdesk_entry as h on n % 4 > 0 and h.id = 12 + 3 * n
left join crm.lead as l on n % 4 = 0 and l.id = 3 * n
cross join lateral (
  select
    case
      when l.id is not null then 'Anfrage.txt'
      when n % 2 = 0 then 'Arbeitsbericht.pdf'
      else format('IMG_%s.jpg', 4000 + 7 * n)
    end as name,
    case when l.id is not null then 'text/plain' when n % 2 = 0 then 'application/pdf' else 'image/jpeg' end as mime_type
) as file
order by n;

insert into crm.uploaded_file (company_id, project_id, name, mime_type, content, labels, uploaded_by_id, uploaded_at)
select
  7, (select min(p.id) from crm.project as p where p.company_id = 7 and n > 1), name, mime_type, pg_temp.file_content(100 + n, mime_type, size),
  labels, 2, pg_temp.days_ago(age, n, 'file')
from (
  values
  (1, 'Wartungsvertrag Gewächshaus.pdf', 'application/pdf', 6144, array['vertrag'], 900),
  (2, 'Plan Lüftung Glashaus 2.pdf', 'application/pdf', 4096, array['plan', 'lüftung'], 240),
  (3, 'Schaltschrank.jpg', 'image/jpeg', 3072, array['foto'], 35)
) as file (n, name, mime_type, size, labels, age)
order by n;

-- Nothing of the helpers stays, even when the session goes on.
drop function
pg_temp.as_of, pg_temp.pick, pg_temp.one_of, pg_temp.age, pg_temp.days_ago, pg_temp.phone, pg_temp.slug, pg_temp.customer,
pg_temp.quantity, pg_temp.file_content, pg_temp.contact_of;

commit;
