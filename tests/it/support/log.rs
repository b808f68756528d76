//! The log of all servers in this process, captured at level TRACE.

use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The captured log: one JSON document per line.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Returns everything logged so far. The first call starts the capture.
    pub fn text() -> String {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Log(Arc::default());
            let writer = log.clone();
            let settings =
                cordon::config::Log { format: cordon::config::LogFormat::Json, filter: "info,cordon=trace".into() };
            let layer = cordon::telemetry::log_layer(&settings, move || writer.clone()).unwrap();
            tracing_subscriber::registry().with(layer).try_init().expect("the log is captured once per process");
            log
        });
        String::from_utf8_lossy(&log.0.lock()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
