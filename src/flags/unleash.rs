//! The client of Unleash: a background task keeps a copy of the flags that Unleash knows. No other module uses the
//! crate. A request reads memory only, so an Unleash that is unreachable, slow or sends invalid data changes no flag
//! and delays no request.

use super::{Evaluation, Flag, FlagContext, FlagsConfigError};
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
/// The time allowed for one request to Unleash. A refresh interval that is shorter limits it further.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One environment of an Unleash server, and the copy of its flags.
pub struct Unleash {
    client: Client<Flag>,
    url: String,
    /// The flags in the last valid response. The crate's client does not distinguish a flag that is off from one that
    /// Unleash does not know, nor from the time before the first response.
    known_flags: RwLock<BTreeSet<Flag>>,
}

impl FeatureKey for Flag {
    fn name(self) -> &'static str {
        self.info().name
    }
}

impl Unleash {
    pub fn new(url: &str, token: &SecretString, refresh_interval: Duration) -> Result<Self, FlagsConfigError> {
        let valid = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        if !valid {
            return Err(FlagsConfigError("unleash_url is not an http or https URL".into()));
        }
        let builder =
            ClientBuilder::default().interval(u64::try_from(refresh_interval.as_millis()).unwrap_or(u64::MAX));
        // Without redirects the token reaches no other server. Without idle connections a changed address of Unleash
        // takes effect at once.
        let http = reqwest::Client::builder()
            .timeout(refresh_interval.min(REQUEST_TIMEOUT))
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .build();
        let http = http.map_err(|_| FlagsConfigError("the HTTP client for Unleash cannot be created".into()))?;
        let (instance, token) = (Uuid::now_v7().to_string(), token.expose_secret().to_owned());
        let client = builder.into_client_with_transport(
            url,
            APP_NAME,
            &instance,
            Some(token),
            Arc::new(ReqwestTransport::new(http)),
        );
        let client = client.map_err(|error| FlagsConfigError(format!("Unleash's client: {error}")))?;
        Ok(Self { client, url: url.to_owned(), known_flags: RwLock::default() })
    }

    /// Evaluates a flag with the rules of the last response. Returns `None` when Unleash does not know the flag or has
    /// not responded yet. `default` is used when a refresh removes the flag at this very moment.
    pub fn evaluate(&self, flag: Flag, context: FlagContext<'_>, default: bool) -> Option<Evaluation> {
        if !self.known_flags.read().contains(&flag) {
            return None;
        }
        let context = unleash_context(context);
        // Both are called even if the flag is off, because each adds to the statistics of evaluations that Unleash
        // receives.
        let (enabled, variant) =
            (self.client.is_enabled(flag, Some(&context), default), self.client.get_variant(flag, &context));
        Some(Evaluation { enabled, variant: (enabled && variant.enabled).then_some(variant.name) })
    }

    /// Requests the flags again after every `interval`. Never returns. Logs once when Unleash becomes unreachable and
    /// once when it is back.
    pub async fn refresh(&self, interval: Duration) {
        let mut reachable = None;
        loop {
            let outcome = self.fetch().await;
            match &outcome {
                Ok(()) if reachable != Some(true) => {
                    tracing::info!("Unleash responds; its flags are in use");
                    if let Err(error) = self.client.register().await {
                        tracing::debug!(error, "Cannot register with Unleash");
                    }
                }
                Err(error) if reachable != Some(false) => {
                    tracing::warn!(error, "Unleash is unreachable; its last response, or else the YAML file, decides");
                }
                _ => {}
            }
            reachable = Some(outcome.is_ok());
            tokio::time::sleep(interval).await;
        }
    }

    async fn fetch(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let response: serde_json::Value = self.client.http.get_json(&features_endpoint(&self.url), None).await?;
        let features = response.get("features").and_then(|features| features.as_array());
        let features = features.ok_or("the response holds no `features`; is the token a backend token?")?;
        let known_flags = features.iter().filter_map(|feature| Flag::by_name(feature.get("name")?.as_str()?)).collect();
        let statistics = self.client.memoize(serde_json::from_value(response)?)?;
        *self.known_flags.write() = known_flags;
        if let Some(statistics) = statistics {
            // Statistics that cannot be sent are lost: Unleash only shows them to people.
            let _ = self.client.http.post_json(&Metrics::endpoint(&self.url), statistics, None).await;
        }
        Ok(())
    }
}

/// Returns the properties that Unleash's rules may use. The `userId` is the tenant's id, so that a gradual rollout
/// reaches whole organisations and no person is named.
fn unleash_context(context: FlagContext<'_>) -> Context {
    let FlagContext { tenant, plan, model, region } = context;
    let tenant = tenant.to_string();
    let properties = [("tenantId", Some(tenant.as_str())), ("plan", Some(plan)), ("model", model), ("region", region)];
    let properties = properties
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect::<HashMap<_, _>>();
    Context { user_id: Some(tenant), properties, app_name: APP_NAME.into(), ..Context::default() }
}
