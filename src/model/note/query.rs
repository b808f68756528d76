//! The pieces of SQL that queries of notes share: who may see a note, what waits for a signature, and what is read
//! beside each note.

use super::{CurrentText, Note, NoteStatus, NoteText};
use crate::db::schema::tenant::{
    clinical_notes as notes, note_signatures as signatures, note_signers as signers, note_types,
    note_versions as versions, staff,
};
use crate::ids::StaffId;
use crate::model::sql::{Outer, Rows, is_constant, limited};
use diesel::dsl::{AsSelect, Eq, LeftJoinQuerySource, exists, not};
use diesel::expression::{ValidGrouping, is_aggregate};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Bool, Uuid as SqlUuid};

/// Whether a note may be seen by `reader`: a draft by its author, who typed it and who is named to sign it, a discarded
/// note by nobody. The reader is compared inside EXISTS, so that PostgreSQL evaluates it for drafts alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct VisibleTo<E> {
    reader: StaffId,
    named: E,
}

pub(super) fn visible_to(reader: StaffId) -> VisibleTo<impl QueryFragment<Pg> + Send + 'static> {
    let named = signers::table
        .filter(signers::tenant_id.eq(notes::tenant_id))
        .filter(signers::note_id.eq(notes::id))
        .filter(signers::staff_id.eq(Outer::<SqlUuid>::named("reader.id")));
    VisibleTo { reader, named: exists(named) }
}

impl<E> Expression for VisibleTo<E> {
    type SqlType = Bool;
}

impl<E: QueryFragment<Pg>> QueryFragment<Pg> for VisibleTo<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (draft, discarded) = (NoteStatus::Draft.as_str(), NoteStatus::Discarded.as_str());
        out.push_sql("(");
        notes::status.walk_ast(out.reborrow())?;
        out.push_sql(&format!(" NOT IN ('{draft}', '{discarded}') OR "));
        notes::status.walk_ast(out.reborrow())?;
        out.push_sql(&format!(" = '{draft}' AND EXISTS (SELECT FROM (VALUES ("));
        out.push_bind_param::<SqlUuid, _>(&self.reader)?;
        out.push_sql(")) reader(id) WHERE reader.id IN (");
        notes::author_id.walk_ast(out.reborrow())?;
        out.push_sql(", ");
        notes::entered_by.walk_ast(out.reborrow())?;
        out.push_sql(") OR ");
        self.named.walk_ast(out.reborrow())?;
        out.push_sql("))");
        Ok(())
    }
}

impl<E> AppearsOnTable<notes::table> for VisibleTo<E> {}
impl<E> ValidGrouping<()> for VisibleTo<E> {
    type IsAggregate = is_aggregate::No;
}
impl<E> QueryId for VisibleTo<E> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// Keeps the notes that wait for the signature of `me`: drafts of mine, and notes that I am named to sign, that are not
/// yet signed for good and that I have not signed. The statuses are constants and come first, as in the index of what
/// is pending.
pub(super) fn awaiting<ST>(rows: Rows<'_, notes::table, ST>, me: StaffId) -> Rows<'_, notes::table, ST> {
    let named = signers::table
        .filter(signers::tenant_id.eq(notes::tenant_id))
        .filter(signers::note_id.eq(notes::id))
        .filter(signers::staff_id.eq(me));
    let signed = signatures::table
        .filter(signatures::tenant_id.eq(notes::tenant_id))
        .filter(signatures::note_id.eq(notes::id))
        .filter(signatures::number.eq(notes::current_version))
        .filter(signatures::signer_id.eq(me));
    let mine = is_constant(notes::status, [NoteStatus::Draft]).and(notes::author_id.eq(me));
    rows.filter(is_constant(notes::status, [NoteStatus::Draft, NoteStatus::Uncosigned]))
        .filter(mine.or(exists(named).and(not(exists(signed)))))
}

/// Notes with what is read beside each. Each detail is looked up for its note alone: a join would be planned over the
/// whole tenant.
#[derive(Clone)]
pub(super) struct WithDetails<Q, C, A, K> {
    rows: Q,
    select: AsSelect<Note, Pg>,
    current: C,
    author: A,
    kind: K,
}

/// The notes of `rows`, which selects all columns of `clinical_notes`, as `Note`s.
pub(super) fn with_details<Q: Query>(
    rows: Q,
    text: NoteText,
) -> WithDetails<Q, impl QueryFragment<Pg> + Send, impl QueryFragment<Pg> + Send, impl QueryFragment<Pg> + Send> {
    let current = versions::table
        .filter((text == NoteText::Included).into_sql::<Bool>())
        .filter(versions::tenant_id.eq(notes::tenant_id))
        .filter(versions::note_id.eq(notes::id))
        .filter(versions::number.eq(notes::current_version))
        .select(CurrentText::as_select());
    let author = staff::table
        .filter(staff::tenant_id.eq(notes::tenant_id))
        .filter(staff::id.nullable().eq(notes::author_id))
        .select(staff::name);
    let kind = note_types::table
        .filter(note_types::tenant_id.eq(notes::tenant_id))
        .filter(note_types::code.eq(notes::type_code))
        .select(note_types::display);
    WithDetails {
        rows,
        select: Note::as_select(),
        current: limited(current, 1),
        author: limited(author, 1),
        kind: limited(kind, 1),
    }
}

/// What the text of `WithDetails` reads from. `Note` is checked against it: its columns come from these tables, those
/// that may be absent as options.
type Source = LeftJoinQuerySource<
    LeftJoinQuerySource<
        LeftJoinQuerySource<notes::table, versions::table, Eq<versions::note_id, notes::id>>,
        staff::table,
        Eq<diesel::helper_types::Nullable<staff::id>, notes::author_id>,
    >,
    note_types::table,
    Eq<note_types::code, notes::type_code>,
>;

impl<Q, C, A, K> Query for WithDetails<Q, C, A, K>
where
    AsSelect<Note, Pg>: SelectableExpression<Source>,
{
    type SqlType = <AsSelect<Note, Pg> as Expression>::SqlType;
}

impl<Q, C, A, K> QueryFragment<Pg> for WithDetails<Q, C, A, K>
where
    Q: QueryFragment<Pg>,
    C: QueryFragment<Pg>,
    A: QueryFragment<Pg>,
    K: QueryFragment<Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        self.select.walk_ast(out.reborrow())?;
        out.push_sql(" FROM (");
        self.rows.walk_ast(out.reborrow())?;
        // Aliases are the tables' names, so that diesel's columns mean the rows of the subqueries.
        out.push_sql(") AS clinical_notes LEFT JOIN LATERAL (");
        self.current.walk_ast(out.reborrow())?;
        out.push_sql(") AS note_versions ON TRUE LEFT JOIN LATERAL (");
        self.author.walk_ast(out.reborrow())?;
        out.push_sql(") AS staff ON TRUE LEFT JOIN LATERAL (");
        self.kind.walk_ast(out.reborrow())?;
        out.push_sql(") AS note_types ON TRUE");
        Ok(())
    }
}

impl<Q, C, A, K> QueryId for WithDetails<Q, C, A, K> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}
