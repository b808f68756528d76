//! The caller's identity, roles and organisation, from the token and the catalog. Touches no tenant database.

use super::context::guard;
use super::feature::Feature;
use super::ids::{self, IdKind};
use crate::error::Result;
use crate::guard::{Actor, Guard};
use crate::ids::{StaffId, TenantId};
use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};

/// The root field about the caller.
#[derive(Default)]
pub struct ViewerQuery;

#[Object]
impl ViewerQuery {
    /// Returns the caller, and the organisation that the request is for.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let guard = guard(ctx)?;
        guard.authorize("viewer")?;
        Ok(Viewer::of(guard))
    }
}

/// The caller of this request.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct Viewer {
    /// The caller's id in this organisation. The same person has this id as an author and as a signer.
    id: ID,
    /// The caller's name, or null when the token has none.
    name: Option<String>,
    /// The organisation that the request is for.
    tenant: Tenant,
    /// The caller's roles, from the token.
    roles: Vec<String>,
}

#[ComplexObject]
impl Viewer {
    /// All features, on or off for the organisation.
    async fn features(&self, ctx: &Context<'_>) -> Result<Vec<Feature>> {
        Ok(Feature::all(guard(ctx)?))
    }
}

/// An organisation whose data is isolated from all others.
#[derive(SimpleObject)]
pub struct Tenant {
    /// The organisation's id.
    id: ID,
    /// The organisation's short name, as in its subdomain and in the header `X-Tenant-ID`.
    slug: String,
    /// The organisation's name.
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
