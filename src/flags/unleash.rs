//! Unleash, followed in the background: the flags it knows, as it last told them. The only home of its client.
//! A request meets memory only: an Unleash that is away, slow or wrong changes no answer and delays none.

use super::{Answer, ConfigProblem, Flag, Subject};
use parking_lot::RwLock;
use reqwest::Url;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use unleash_api_client::api::{Metrics, features_endpoint};
use unleash_api_client::client::{Client, ClientBuilder, FeatureKey};
use unleash_api_client::context::Context;
use unleash_api_client::http::reqwest::ReqwestTransport;
use uuid::Uuid;

const APP_NAME: &str = "cordon";
/// How long Unleash may take for one answer; never longer than the time between two.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// One Unleash.
pub struct Unleash {
    client: Client<Flag>,
    url: String,
    /// The flags of its last answer. The client cannot tell a flag that is off from one that it does not know, nor from not having asked yet.
    known: RwLock<BTreeSet<Flag>>,
}

impl FeatureKey for Flag {
    fn name(self) -> &'static str {
        self.about().name
    }
}

impl Unleash {
    pub fn new(url: &str, token: &SecretString, refresh: Duration) -> Result<Self, ConfigProblem> {
        let valid = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        if !valid {
            return Err(ConfigProblem("unleash_url is no http or https URL".into()));
        }
        let builder = ClientBuilder::default().interval(u64::try_from(refresh.as_millis()).unwrap_or(u64::MAX));
        // The token goes nowhere else, and no kept connection hides that Unleash has moved.
        let http = reqwest::Client::builder()
            .timeout(refresh.min(LONGEST_WAIT))
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .build();
        let http = http.map_err(|_| ConfigProblem("Unleash needs an HTTP client, and none can be made here".into()))?;
        let (instance, token) = (Uuid::now_v7().to_string(), token.expose_secret().to_owned());
        let client = builder.into_client_with_transport(
            url,
            APP_NAME,
            &instance,
            Some(token),
            Arc::new(ReqwestTransport::new(http)),
        );
        let client = client.map_err(|error| ConfigProblem(format!("Unleash's client: {error}")))?;
        Ok(Self { client, url: url.to_owned(), known: RwLock::default() })
    }

    /// What it last said; `None` when it does not know the flag, or nothing has been heard of it yet. `otherwise` is for a flag that it
    /// forgets at this very moment.
    pub fn answer(&self, flag: Flag, subject: Subject<'_>, otherwise: bool) -> Option<Answer> {
        if !self.known.read().contains(&flag) {
            return None;
        }
        let context = context(subject);
        // Both, whether it is on or not: each counts the answer for Unleash's statistics of yes and no.
        let (enabled, variant) =
            (self.client.is_enabled(flag, Some(&context), otherwise), self.client.get_variant(flag, &context));
        Some(Answer { enabled, variant: (enabled && variant.enabled).then_some(variant.name) })
    }

    /// Asks again and again. That it went away and that it is back are said once each.
    pub async fn follow(&self, refresh: Duration) {
        let mut reached = None;
        loop {
            let outcome = self.ask().await;
            match &outcome {
                Ok(()) if reached != Some(true) => {
                    tracing::info!("Unleash answers; its flags are followed");
                    if let Err(error) = self.client.register().await {
                        tracing::debug!(error, "Unleash was not told that it is followed");
                    }
                }
                Err(error) if reached != Some(false) => {
                    tracing::warn!(error, "Unleash is away; flags stay as it last said, or as the YAML says");
                }
                _ => {}
            }
            reached = Some(outcome.is_ok());
            tokio::time::sleep(refresh).await;
        }
    }

    async fn ask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let answer: serde_json::Value = self.client.http.get_json(&features_endpoint(&self.url), None).await?;
        let features = answer.get("features").and_then(|features| features.as_array());
        let features = features.ok_or("the answer holds no features; is the token one of a backend?")?;
        let known = features.iter().filter_map(|feature| Flag::named(feature.get("name")?.as_str()?)).collect();
        let counted = self.client.memoize(serde_json::from_value(answer)?)?;
        *self.known.write() = known;
        if let Some(counted) = counted {
            // Statistics for people: what is lost is lost.
            let _ = self.client.http.post_json(&Metrics::endpoint(&self.url), counted, None).await;
        }
        Ok(())
    }
}

/// What Unleash's rules may look at. What they stick to by default is the tenant: a gradual rollout reaches whole organisations, and no person
/// needs to be named.
fn context(subject: Subject<'_>) -> Context {
    let Subject { tenant, plan, model, region } = subject;
    let tenant = tenant.to_string();
    let properties = [("tenantId", Some(tenant.as_str())), ("plan", Some(plan)), ("model", model), ("region", region)];
    let properties = properties
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect::<HashMap<_, _>>();
    Context { user_id: Some(tenant), properties, app_name: APP_NAME.into(), ..Context::default() }
}
