//! The listener: it hears of changes of the catalog by NOTIFY and refreshes the snapshot, in a session of its own.

use super::Catalog;
use crate::db::fault::classify;
use crate::error::{Error, Result};
use crate::ids::TenantId;
use diesel_async::RunQueryDsl;
use futures_util::StreamExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The channel of the notifications. The payload is the id of the tenant that changed, or empty where everything is to
/// be read again.
pub const CHANNEL: &str = "cordon_catalog";

/// Pause before the session is opened again after it was lost.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

impl Catalog {
    /// Listens for changes until the process ends. Calls `on_change` with the tenant that changed, or with `None` after
    /// everything was read again, which happens at the start and after every loss of the session.
    pub async fn listen(self: Arc<Self>, on_change: impl Fn(Option<TenantId>) + Send + Sync + 'static) {
        loop {
            if let Err(error) = self.listen_once(&on_change).await {
                tracing::warn!(error = %error, "Lost the catalog's notifications; trying again");
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    async fn listen_once(&self, on_change: &(impl Fn(Option<TenantId>) + Send + Sync)) -> Result<()> {
        let mut session = self.open_session().await?;
        diesel::sql_query(format!("listen {CHANNEL}"))
            .execute(&mut session)
            .await
            .map_err(|error| classify(&error).error)?;
        self.refresh_all().await?;
        on_change(None);
        let mut notifications = pin!(session.notifications_stream());
        while let Some(notification) = notifications.next().await {
            let notification = notification.map_err(|error| classify(&error).error)?;
            match notification.payload.parse::<TenantId>() {
                Ok(tenant) => {
                    self.refresh(tenant).await?;
                    on_change(Some(tenant));
                }
                Err(_) => {
                    self.refresh_all().await?;
                    on_change(None);
                }
            }
        }
        Err(Error::Unavailable)
    }
}
