//! Feature flags as clients see them: the answers of this operation, which the guard holds. Touches no tenant database.

use super::context::guard;
use crate::error::Result;
use crate::flags::Answer;
use crate::guard::Guard;
use async_graphql::{Context, Object, SimpleObject};

/// Feature flags.
#[derive(Default)]
pub struct FeatureQuery;

#[Object]
impl FeatureQuery {
    /// Whether something is switched on for the organisation. What nobody has heard of is off.
    async fn feature(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Name of the feature.")] name: String,
    ) -> Result<Feature> {
        let guard = guard(ctx)?;
        guard.may("feature")?;
        let answer = guard.features().named(&name);
        Ok(Feature::of(name, answer))
    }
}

/// Something that is switched on for some organisations and off for others.
#[derive(SimpleObject)]
pub struct Feature {
    /// Its name.
    name: String,
    /// Whether it is on. The answer is the same throughout one request.
    enabled: bool,
    /// Which of several behaviours, where it has more than one.
    variant: Option<String>,
}

impl Feature {
    /// All there are.
    pub fn all(guard: &Guard) -> Vec<Self> {
        guard.features().iter().map(|(flag, answer)| Self::of(flag.name().to_owned(), answer.clone())).collect()
    }

    fn of(name: String, Answer { enabled, variant }: Answer) -> Self {
        Self { name, enabled, variant }
    }
}
