//! Who calls: the caller's own identity and organisation, from the token and the catalog. Touches no tenant database.

use super::context::guard;
use super::feature::Feature;
use super::ids::{self, IdKind};
use crate::error::Result;
use crate::guard::{Actor, Guard};
use crate::ids::{StaffId, TenantId};
use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};

/// The caller.
#[derive(Default)]
pub struct ViewerQuery;

#[Object]
impl ViewerQuery {
    /// Who is calling, and for which organisation.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let guard = guard(ctx)?;
        guard.may("viewer")?;
        Ok(Viewer::of(guard))
    }
}

/// Who is calling.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct Viewer {
    /// The caller's id in this organisation, the same as an author's.
    id: ID,
    /// Display name, when the token gives one.
    name: Option<String>,
    /// The organisation this request is for.
    tenant: Tenant,
    /// The caller's roles.
    roles: Vec<String>,
}

#[ComplexObject]
impl Viewer {
    /// What is switched on for the organisation and what is not.
    async fn features(&self, ctx: &Context<'_>) -> Result<Vec<Feature>> {
        Ok(Feature::all(guard(ctx)?))
    }
}

/// An organisation.
#[derive(SimpleObject)]
pub struct Tenant {
    /// The organisation's id.
    id: ID,
    /// Its short name, as in its subdomain.
    slug: String,
    /// Its name.
    name: String,
}

impl Viewer {
    fn of(guard: &Guard) -> Self {
        let Actor { id: StaffId(id), name, roles, .. } = guard.actor();
        let tenant = guard.tenant();
        let TenantId(tenant_id) = tenant.id;
        Self {
            id: ids::encode(IdKind::Staff, *id),
            name: name.clone(),
            tenant: Tenant {
                id: ids::encode(IdKind::Tenant, tenant_id),
                slug: tenant.slug.clone(),
                name: tenant.name.clone(),
            },
            roles: roles.clone(),
        }
    }
}
