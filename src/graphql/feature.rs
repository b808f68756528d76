//! Feature flags as clients see them. The guard evaluates them once for each request. Touches no tenant database.

use super::context::guard;
use crate::error::Result;
use crate::flags::Evaluation;
use crate::guard::Guard;
use async_graphql::{Context, Object, SimpleObject};

/// The root field about features.
#[derive(Default)]
pub struct FeatureQuery;

#[Object]
impl FeatureQuery {
    /// Returns whether a feature is on for the organisation. An unknown feature is off.
    async fn feature(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The name of the feature, such as `patientSearch`.")] name: String,
    ) -> Result<Feature> {
        let guard = guard(ctx)?;
        guard.authorize("feature")?;
        let evaluation = guard.features().by_name(&name);
        Ok(Feature::of(name, evaluation))
    }
}

/// A feature that is on for some organisations and off for others.
#[derive(SimpleObject)]
pub struct Feature {
    /// The feature's name.
    name: String,
    /// Whether the feature is on. It does not change during one request.
    enabled: bool,
    /// The variant of the feature, or null when it has none.
    variant: Option<String>,
}

impl Feature {
    /// Returns all features.
    pub fn all(guard: &Guard) -> Vec<Self> {
        guard.features().iter().map(|(flag, evaluation)| Self::of(flag.name().to_owned(), evaluation.clone())).collect()
    }

    fn of(name: String, Evaluation { enabled, variant }: Evaluation) -> Self {
        Self { name, enabled, variant }
    }
}
