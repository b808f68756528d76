//! Attacks in SQL with the server's own database role. The intruder is bound to tenant B, tenant A is in the same
//! database, and all walls stand. The tests are named after the leaks of `docs/threats.md`. What state on a session
//! does to the next request is tested in `session_residue`, and what the role can see at all in `catalog_visibility`.

mod bindings;
mod chart_changes;
mod error_text;
mod plans;
mod writes;

use crate::support::intruder::{Intruder, login};
use crate::support::marked_chart::MarkedChart;
use crate::support::site::Site;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;

/// The tenancy models in which tenants share a database.
const MODELS_WITH_SHARED_DATABASE: [TenancyModel; 2] = [TenancyModel::Shared, TenancyModel::Schema];

/// Tenant A (the victim), tenant B, and an intruder in a session of the login that both tenants use.
pub struct TwoTenants {
    pub a: MarkedChart,
    pub b: MarkedChart,
    pub intruder: Intruder,
}

impl TwoTenants {
    pub async fn create(site: &Site, model: TenancyModel) -> Self {
        let app = site.app(BootCheck::Dev);
        let (a, b) = (MarkedChart::of(site, &app, model).await, MarkedChart::of(site, &app, model).await);
        let intruder = Intruder::connect(site, &login(site, &app, &b.tenant).await).await;
        Self { a, b, intruder }
    }

    /// Runs `sql` bound to B, in the search path of B. PostgreSQL must reject it with this SQLSTATE, and the error must
    /// not show data of A.
    pub async fn assert_rejected(&self, purpose: &'static str, sql: &str, code: &str) {
        let refused = self.intruder.run_as(&self.b, purpose, sql).await.expect_err(sql);
        assert_eq!(refused.code, code, "{sql}: {}", refused.message);
        assert!(
            !self.a.leaks_into(&refused.full_text) && self.a.count_rows_in(&refused.full_text) == 0,
            "{sql}: {}",
            refused.full_text
        );
    }

    /// Runs `sql` bound to B, in the search path of B. It must succeed and return no row of A. Returns the rows.
    pub async fn assert_no_rows_of_a(&self, purpose: &'static str, sql: &str) -> String {
        let output = self
            .intruder
            .run_as(&self.b, purpose, sql)
            .await
            .unwrap_or_else(|refused| panic!("{sql}: {}", refused.message));
        assert_eq!(self.a.count_rows_in(&output), 0, "{sql}");
        output
    }

    async fn assert_a_unchanged(&self, before: &str) {
        assert_eq!(before, self.a.fingerprint(&self.intruder.superuser).await, "a row of another tenant was changed");
    }
}
