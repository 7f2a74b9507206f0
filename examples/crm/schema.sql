-- A small CRM of a refrigeration and ventilation dealer: the example that pg_grace's demo and manual use.
-- Deleting a company takes with it everything that belongs only to it. What the dealer needs for itself
-- (products, users, purchase orders, cash book) stays or stands in the way.
set client_encoding = 'UTF8';

begin;

create schema crm;

comment on schema crm is 'Example CRM: companies, sales, service and bookkeeping.';

create type crm.user_role as enum ('admin', 'sales', 'service', 'accounting');
create type crm.company_kind as enum ('customer', 'supplier');
create type crm.lead_source as enum ('website', 'trade_fair', 'referral', 'phone', 'newsletter');
create type crm.offer_status as enum ('draft', 'sent', 'accepted', 'rejected', 'expired');
create type crm.order_status as enum ('open', 'in_delivery', 'delivered', 'cancelled');
create type crm.invoice_status as enum ('open', 'paid', 'cancelled');
create type crm.project_status as enum ('planned', 'running', 'on_hold', 'done');
create type crm.helpdesk_status as enum ('new', 'in_progress', 'waiting', 'closed');
create type crm.helpdesk_priority as enum ('low', 'normal', 'high', 'urgent');
create type crm.email_direction as enum ('incoming', 'outgoing');
create type crm.activity_kind as enum ('call', 'meeting', 'visit', 'note');
create type crm.cash_kind as enum ('sale', 'expense', 'deposit', 'withdrawal');

-- Users and products

create table crm.app_user (
  id integer generated always as identity primary key,
  login text not null unique check (login = lower(login)),
  full_name text not null,
  email text not null unique check (email like '%_@_%'),
  role crm.user_role not null,
  permissions text[] not null default '{}',
  settings jsonb not null default '{}',
  manager_id integer references crm.app_user on delete set null,
  active boolean not null default true,
  created_at timestamptz not null default now(),
  last_login_at timestamptz,
  constraint is_not_own_manager check (manager_id <> id)
);

comment on table crm.app_user is 'Employees who work with the CRM.';

create index app_user_manager on crm.app_user (manager_id);

create table crm.product (
  id integer generated always as identity primary key,
  sku text not null unique,
  name text not null,
  unit text not null default 'Stk',
  unit_price numeric(10, 2) not null check (unit_price >= 0),
  attributes jsonb not null default '{}',
  active boolean not null default true
);

comment on table crm.product is 'Price list: devices, spare parts and services.';

-- Companies and contacts

create table crm.company (
  id integer generated always as identity primary key,
  tenant text not null check (tenant in ('graz', 'regensburg', 'utrecht')),
  customer_number text not null unique,
  kind crm.company_kind not null default 'customer',
  name text not null check (name <> ''),
  industry text,
  street text,
  postal_code text,
  town text,
  country char(2) not null check (country ~ '^[A-Z]{2}$'),
  phone text,
  email text check (email like '%_@_%'),
  website text,
  vat_id text unique,
  tags text[] not null default '{}',
  custom_fields jsonb not null default '{}',
  parent_id integer references crm.company on delete set null,
  main_contact_id integer,
  owner_id integer references crm.app_user on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint is_not_own_parent check (parent_id <> id)
);

comment on table crm.company is 'Customers and suppliers; tenant is the branch office that looks after them.';

create index company_parent on crm.company (parent_id);
create index company_main_contact on crm.company (main_contact_id);
create index company_owner on crm.company (owner_id);
create index company_name on crm.company (lower(name));

create table crm.contact (
  id integer generated always as identity primary key,
  company_id integer not null references crm.company on delete cascade,
  salutation text,
  first_name text not null,
  last_name text not null,
  job_title text,
  email text check (email like '%_@_%'),
  phone text,
  birthday date,
  language char(2) not null default 'de',
  newsletter boolean not null default false,
  interests text[] not null default '{}',
  note text,
  created_at timestamptz not null default now()
);

comment on table crm.contact is 'People who work at a company.';

create index contact_company on crm.contact (company_id);
create index contact_name on crm.contact (lower(last_name), lower(first_name));

alter table crm.company
add constraint company_main_contact_id_fkey
foreign key (main_contact_id) references crm.contact on delete set null;

-- Leads

create table crm.lead_status (
  status text primary key,
  label text not null unique,
  sort_order smallint not null
);

comment on table crm.lead_status is 'The states a lead can be in, with the label users see.';

create table crm.lead (
  id integer generated always as identity primary key,
  status text not null default 'new' references crm.lead_status,
  source crm.lead_source not null,
  company_name text,
  first_name text,
  last_name text not null,
  email text check (email like '%_@_%'),
  phone text,
  town text,
  country char(2) not null,
  estimated_value numeric(10, 2) check (estimated_value >= 0),
  answers jsonb not null default '{}',
  consent boolean not null default false,
  owner_id integer references crm.app_user on delete set null,
  company_id integer references crm.company on delete cascade,
  created_at timestamptz not null default now(),
  last_contact_at timestamptz,
  converted_at timestamptz,
  constraint converted_has_a_time check ((status = 'converted') = (converted_at is not null)),
  constraint company_only_if_converted check (company_id is null or status = 'converted')
);

comment on table crm.lead is 'Prospects; once converted, a lead belongs to the company that it became.';

create index lead_by_status on crm.lead (status);
create index lead_owner on crm.lead (owner_id);
create index lead_company on crm.lead (company_id);

-- Projects and serviced equipment

create table crm.project (
  id integer generated always as identity primary key,
  company_id integer not null references crm.company on delete cascade,
  name text not null,
  status crm.project_status not null default 'planned',
  period daterange not null,
  budget numeric(12, 2) check (budget >= 0),
  milestones jsonb not null default '[]',
  manager_id integer references crm.app_user on delete set null,
  created_at timestamptz not null default now(),
  constraint period_is_not_empty check (not isempty(period))
);

comment on table crm.project is 'Installations and other larger jobs for a customer.';

create index project_company on crm.project (company_id);
create index project_manager on crm.project (manager_id);

create table crm.project_member (
  project_id integer not null references crm.project on delete cascade,
  user_id integer not null references crm.app_user on delete restrict,
  task text not null,
  primary key (project_id, user_id)
);

comment on table crm.project_member is 'Who works on a project.';

create index project_member_user on crm.project_member (user_id);

create table crm.service_object (
  id integer generated always as identity primary key,
  company_id integer not null references crm.company on delete cascade,
  product_id integer references crm.product on delete restrict,
  part_of_id integer references crm.service_object on delete cascade,
  serial_number text not null unique,
  name text not null,
  location text,
  installed_on date not null,
  next_service_on date,
  technical_data jsonb not null default '{}',
  constraint is_not_part_of_itself check (part_of_id <> id),
  constraint service_follows_installation check (next_service_on > installed_on)
);

comment on table crm.service_object is 'Objects: equipment at the customer''s site that is serviced.';

create index service_object_company on crm.service_object (company_id);
create index service_object_product on crm.service_object (product_id);
create index service_object_part_of on crm.service_object (part_of_id);

-- Offers, orders, invoices, purchase orders, each with items

create table crm.offer (
  id integer generated always as identity primary key,
  number text not null unique,
  company_id integer not null references crm.company on delete cascade,
  contact_id integer references crm.contact on delete set null,
  project_id integer references crm.project on delete set null,
  owner_id integer references crm.app_user on delete set null,
  status crm.offer_status not null default 'draft',
  offered_on date not null,
  valid_until date not null,
  note text,
  constraint valid_for_a_while check (valid_until >= offered_on)
);

comment on table crm.offer is 'Offers to customers.';

create index offer_company on crm.offer (company_id);
create index offer_contact on crm.offer (contact_id);
create index offer_project on crm.offer (project_id);
create index offer_owner on crm.offer (owner_id);

create table crm.offer_item (
  offer_id integer not null references crm.offer on delete cascade,
  position smallint not null check (position > 0),
  product_id integer not null references crm.product on delete restrict,
  description text not null,
  quantity numeric(10, 2) not null check (quantity > 0),
  unit_price numeric(10, 2) not null,
  discount_percent numeric(4, 1) not null default 0 check (discount_percent between 0 and 100),
  line_total numeric(12, 2) not null
  generated always as (round(quantity * unit_price * (100 - discount_percent) / 100, 2)) stored,
  primary key (offer_id, position)
);

comment on table crm.offer_item is 'Lines of an offer.';

create index offer_item_product on crm.offer_item (product_id);

create table crm.sales_order (
  id integer generated always as identity primary key,
  number text not null unique,
  company_id integer not null references crm.company on delete cascade,
  contact_id integer references crm.contact on delete set null,
  offer_id integer references crm.offer,
  project_id integer references crm.project on delete set null,
  owner_id integer references crm.app_user on delete set null,
  status crm.order_status not null default 'open',
  ordered_on date not null,
  delivered_on date,
  delivery_address jsonb,
  constraint delivered_after_order check (delivered_on >= ordered_on),
  constraint delivered_has_a_date check (status <> 'delivered' or delivered_on is not null)
);

comment on table crm.sales_order is 'Orders from customers.';

create index sales_order_company on crm.sales_order (company_id);
create index sales_order_contact on crm.sales_order (contact_id);
create index sales_order_offer on crm.sales_order (offer_id);
create index sales_order_project on crm.sales_order (project_id);
create index sales_order_owner on crm.sales_order (owner_id);

create table crm.sales_order_item (
  sales_order_id integer not null references crm.sales_order on delete cascade,
  position smallint not null check (position > 0),
  product_id integer not null references crm.product on delete restrict,
  description text not null,
  quantity numeric(10, 2) not null check (quantity > 0),
  unit_price numeric(10, 2) not null,
  discount_percent numeric(4, 1) not null default 0 check (discount_percent between 0 and 100),
  line_total numeric(12, 2) not null
  generated always as (round(quantity * unit_price * (100 - discount_percent) / 100, 2)) stored,
  primary key (sales_order_id, position)
);

comment on table crm.sales_order_item is 'Lines of an order.';

create index sales_order_item_product on crm.sales_order_item (product_id);

create table crm.invoice (
  id integer generated always as identity primary key,
  number text not null unique check (number ~ '^\d{4}-\d{4}$'),
  company_id integer not null references crm.company on delete cascade,
  contact_id integer references crm.contact on delete set null,
  sales_order_id integer references crm.sales_order,
  corrects_id integer references crm.invoice,
  status crm.invoice_status not null default 'open',
  invoiced_on date not null,
  due_on date not null,
  paid_at timestamptz,
  net_total numeric(12, 2) not null default 0,
  vat_total numeric(12, 2) not null default 0,
  reminders smallint not null default 0 check (reminders between 0 and 3),
  note text,
  constraint due_after_invoice check (due_on >= invoiced_on),
  constraint paid_has_a_time check ((status = 'paid') = (paid_at is not null)),
  constraint does_not_correct_itself check (corrects_id <> id)
);

comment on table crm.invoice is 'Invoices to customers; corrects_id is the cancelled invoice that this one replaces.';

create index invoice_company on crm.invoice (company_id);
create index invoice_contact on crm.invoice (contact_id);
create index invoice_sales_order on crm.invoice (sales_order_id);
create index invoice_corrects on crm.invoice (corrects_id);
create index invoice_open on crm.invoice (due_on) where status = 'open';

create table crm.invoice_item (
  invoice_id integer not null references crm.invoice on delete cascade,
  position smallint not null check (position > 0),
  product_id integer not null references crm.product on delete restrict,
  description text not null,
  quantity numeric(10, 2) not null check (quantity > 0),
  unit_price numeric(10, 2) not null,
  discount_percent numeric(4, 1) not null default 0 check (discount_percent between 0 and 100),
  vat_rate numeric(4, 1) not null check (vat_rate between 0 and 100),
  line_total numeric(12, 2) not null
  generated always as (round(quantity * unit_price * (100 - discount_percent) / 100, 2)) stored,
  primary key (invoice_id, position)
);

comment on table crm.invoice_item is 'Lines of an invoice.';

create index invoice_item_product on crm.invoice_item (product_id);

create table crm.purchase_order (
  id integer generated always as identity primary key,
  number text not null unique,
  supplier_id integer not null references crm.company on delete restrict,
  sales_order_id integer references crm.sales_order on delete set null,
  ordered_by_id integer references crm.app_user on delete set null,
  status crm.order_status not null default 'open',
  ordered_on date not null,
  delivered_on date,
  constraint delivered_after_order check (delivered_on >= ordered_on)
);

comment on table crm.purchase_order is 'Orders to suppliers; a supplier with purchase orders can''t be deleted.';

create index purchase_order_supplier on crm.purchase_order (supplier_id);
create index purchase_order_sales_order on crm.purchase_order (sales_order_id);
create index purchase_order_ordered_by on crm.purchase_order (ordered_by_id);

create table crm.purchase_order_item (
  purchase_order_id integer not null references crm.purchase_order on delete cascade,
  position smallint not null check (position > 0),
  product_id integer not null references crm.product on delete restrict,
  quantity numeric(10, 2) not null check (quantity > 0),
  unit_price numeric(10, 2) not null,
  line_total numeric(12, 2) not null generated always as (round(quantity * unit_price, 2)) stored,
  primary key (purchase_order_id, position)
);

comment on table crm.purchase_order_item is 'Lines of a purchase order.';

create index purchase_order_item_product on crm.purchase_order_item (product_id);

-- Service

create table crm.helpdesk_entry (
  id integer generated always as identity primary key,
  number text not null unique,
  company_id integer not null references crm.company on delete cascade,
  contact_id integer references crm.contact on delete set null,
  service_object_id integer references crm.service_object on delete set null,
  assigned_to_id integer references crm.app_user on delete set null,
  status crm.helpdesk_status not null default 'new',
  priority crm.helpdesk_priority not null default 'normal',
  subject text not null,
  body text not null,
  tags text[] not null default '{}',
  opened_at timestamptz not null default now(),
  closed_at timestamptz,
  constraint closed_has_a_time check ((status = 'closed') = (closed_at is not null)),
  constraint closed_after_opened check (closed_at >= opened_at)
);

comment on table crm.helpdesk_entry is 'Customers'' questions and faults.';

create index helpdesk_entry_company on crm.helpdesk_entry (company_id);
create index helpdesk_entry_contact on crm.helpdesk_entry (contact_id);
create index helpdesk_entry_service_object on crm.helpdesk_entry (service_object_id);
create index helpdesk_entry_assigned_to on crm.helpdesk_entry (assigned_to_id);

create table crm.helpdesk_comment (
  id integer generated always as identity primary key,
  helpdesk_entry_id integer not null references crm.helpdesk_entry on delete cascade,
  author_id integer references crm.app_user on delete set null,
  body text not null,
  internal boolean not null default false,
  written_at timestamptz not null default now()
);

comment on table crm.helpdesk_comment is 'What was said about a helpdesk entry; without an author the customer wrote it.';

create index helpdesk_comment_entry on crm.helpdesk_comment (helpdesk_entry_id);
create index helpdesk_comment_author on crm.helpdesk_comment (author_id);

create table crm.work_entry (
  id integer generated always as identity primary key,
  company_id integer not null references crm.company on delete cascade,
  user_id integer not null references crm.app_user on delete restrict,
  project_id integer references crm.project on delete set null,
  helpdesk_entry_id integer references crm.helpdesk_entry on delete set null,
  invoice_id integer references crm.invoice on delete set null,
  worked tstzrange not null,
  hourly_rate numeric(6, 2) not null check (hourly_rate >= 0),
  billable boolean not null default true,
  description text not null,
  constraint worked_is_bounded check (
    not isempty(worked) and not lower_inf(worked) and not upper_inf(worked)
  )
);

comment on table crm.work_entry is 'Hours worked for a customer.';

create index work_entry_company on crm.work_entry (company_id);
create index work_entry_user on crm.work_entry (user_id);
create index work_entry_project on crm.work_entry (project_id);
create index work_entry_helpdesk_entry on crm.work_entry (helpdesk_entry_id);
create index work_entry_invoice on crm.work_entry (invoice_id);

-- Communication

create table crm.email (
  id bigint generated always as identity primary key,
  message_id text not null unique,
  direction crm.email_direction not null,
  lead_id integer references crm.lead on delete cascade,
  contact_id integer references crm.contact on delete cascade,
  reply_to_id bigint references crm.email on delete set null,
  sender text not null,
  recipients text[] not null check (cardinality(recipients) > 0),
  subject text not null,
  body text not null,
  headers jsonb not null default '{}',
  sent_at timestamptz not null,
  constraint belongs_to_someone check (num_nonnulls(lead_id, contact_id) > 0)
);

comment on table crm.email is 'E-mails from and to leads and contacts.';

create index email_lead on crm.email (lead_id);
create index email_contact on crm.email (contact_id);
create index email_reply_to on crm.email (reply_to_id);
create index email_sent_at on crm.email (sent_at);

create table crm.activity (
  id bigint generated always as identity primary key,
  kind crm.activity_kind not null,
  company_id integer references crm.company on delete cascade,
  contact_id integer references crm.contact on delete set null,
  lead_id integer references crm.lead on delete cascade,
  user_id integer references crm.app_user on delete set null,
  summary text not null,
  details jsonb not null default '{}',
  happened_at timestamptz not null default now(),
  constraint belongs_to_company_or_lead check (num_nonnulls(company_id, lead_id) = 1),
  constraint contact_only_with_company check (contact_id is null or company_id is not null)
);

comment on table crm.activity is 'Call notes, meetings, visits and remarks.';

create index activity_company on crm.activity (company_id);
create index activity_contact on crm.activity (contact_id);
create index activity_lead on crm.activity (lead_id);
create index activity_user on crm.activity (user_id);

-- Cash book and files

create table crm.cash_book_entry (
  id integer generated always as identity primary key,
  number text not null unique,
  booked_on date not null,
  kind crm.cash_kind not null,
  amount numeric(10, 2) not null,
  description text not null,
  invoice_id integer references crm.invoice on delete set null,
  user_id integer not null references crm.app_user on delete restrict,
  constraint amount_has_the_right_sign check ((kind in ('sale', 'withdrawal')) = (amount > 0))
);

comment on table crm.cash_book_entry is
'Cash received and spent; a withdrawal takes money from the bank account, a deposit brings it there.';

create index cash_book_entry_invoice on crm.cash_book_entry (invoice_id);
create index cash_book_entry_user on crm.cash_book_entry (user_id);

create table crm.uploaded_file (
  id integer generated always as identity primary key,
  company_id integer references crm.company on delete cascade,
  lead_id integer references crm.lead on delete cascade,
  project_id integer references crm.project on delete set null,
  helpdesk_entry_id integer references crm.helpdesk_entry on delete set null,
  name text not null,
  mime_type text not null,
  content bytea not null,
  byte_size integer not null generated always as (octet_length(content)) stored,
  sha256 bytea not null generated always as (sha256(content)) stored,
  labels text[] not null default '{}',
  uploaded_by_id integer references crm.app_user on delete set null,
  uploaded_at timestamptz not null default now(),
  constraint belongs_to_company_or_lead check (num_nonnulls(company_id, lead_id) = 1),
  constraint details_only_with_company check (
    company_id is not null or num_nonnulls(project_id, helpdesk_entry_id) = 0
  )
);

comment on table crm.uploaded_file is 'Files with their content: contracts, photos, plans.';

create index uploaded_file_company on crm.uploaded_file (company_id);
create index uploaded_file_lead on crm.uploaded_file (lead_id);
create index uploaded_file_project on crm.uploaded_file (project_id);
create index uploaded_file_helpdesk_entry on crm.uploaded_file (helpdesk_entry_id);
create index uploaded_file_uploaded_by on crm.uploaded_file (uploaded_by_id);

commit;
