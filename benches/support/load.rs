//! A load generator with little overhead: HTTP/1.1 over persistent connections, with requests that are built in
//! advance. Responses are read completely, and only their status and the presence of errors are checked.

use super::BenchResult;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The bytes of a request.
#[derive(Clone)]
pub struct Request(Vec<u8>);

impl Request {
    pub fn new(address: &str, token: &str, query: &str, variables: &Value) -> Self {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("accept", "application/graphql-response+json")];
        Self::with(address, "/graphql", &headers, query, variables)
    }

    /// Builds a request to this path with these headers.
    pub fn with(address: &str, path: &str, headers: &[(&str, &str)], query: &str, variables: &Value) -> Self {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}content-type: application/json\r\ncontent-length: \
             {length}\r\n\r\n"
        );
        Self([head.into_bytes(), body.into_bytes()].concat())
    }
}

/// A persistent connection.
pub struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> BenchResult<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Sends a request and returns the status and body of the response.
    pub async fn send(&mut self, request: &Request) -> BenchResult<(u16, Vec<u8>)> {
        self.socket.write_all(&request.0).await?;
        let mut chunk = [0; 1 << 16];
        loop {
            if let Some((status, body, length)) = parse_response(&self.buffer) {
                let response = self.buffer.get(body..body + length).unwrap_or_default().to_vec();
                self.buffer.drain(..body + length);
                return Ok((status, response));
            }
            match self.socket.read(&mut chunk).await? {
                0 => return Err("the server closed the connection".into()),
                read => self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            }
        }
    }
}

/// Returns the status, the start of the body and its length once the whole response has been received.
fn parse_response(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok())?;
    (bytes.len() >= end + length).then_some((status, end, length))
}

/// The results of a run.
#[derive(Debug, Default, Clone)]
pub struct Run {
    /// The number of responses with status 200 and without errors.
    pub answered: usize,
    /// The number of other responses.
    pub refused: usize,
    pub seconds: f64,
    /// The latencies of the successful requests, sorted.
    pub milliseconds: Vec<f64>,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// Returns the latency that this share of the successful requests did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let at = (self.milliseconds.len() as f64 * share) as usize;
        self.milliseconds.get(at.min(self.milliseconds.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Keeps `connections` connections busy for `time`. They take the requests in turn.
pub async fn run(address: &str, requests: &Arc<Vec<Request>>, connections: usize, time: Duration) -> BenchResult<Run> {
    let stop = Arc::new(AtomicBool::new(false));
    let turn = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(address).await?;
        let (requests, stop, turn) = (Arc::clone(requests), Arc::clone(&stop), Arc::clone(&turn));
        workers.push(tokio::spawn(async move {
            let mut run = Run::default();
            while !stop.load(Ordering::Relaxed) {
                let next = turn.fetch_add(1, Ordering::Relaxed) % requests.len().max(1);
                let Some(request) = requests.get(next) else { break };
                let started = Instant::now();
                let response = connection.send(request).await.map_err(|error| error.to_string())?;
                match response {
                    (200, body) if !body.windows(9).any(|nine| nine == b"\"errors\":") => {
                        run.answered += 1;
                        run.milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
                    }
                    _ => run.refused += 1,
                }
            }
            Ok::<_, String>(run)
        }));
    }
    let started = Instant::now();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    combine(workers, started).await
}

/// Sends `per_second` requests per second for `time` over at most `connections` connections, regardless of earlier
/// responses. The latency is measured from the scheduled time of a request, so that a stalled server does not reduce it
/// (coordinated omission).
pub async fn paced(
    address: &str,
    requests: &Arc<Vec<Request>>,
    per_second: u32,
    connections: usize,
    time: Duration,
) -> BenchResult<Run> {
    let every = Duration::from_secs(1) / per_second.max(1);
    let started = Instant::now();
    let turn = Arc::new(AtomicUsize::new(0));
    let due = usize::try_from(time.as_nanos() / every.as_nanos())?;
    let mut workers = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(address).await?;
        let (requests, turn) = (Arc::clone(requests), Arc::clone(&turn));
        workers.push(tokio::spawn(async move {
            let mut run = Run::default();
            loop {
                let number = turn.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(number % requests.len().max(1)).filter(|_| number < due) else {
                    return Ok::<_, String>(run);
                };
                let at = started + every * u32::try_from(number).unwrap_or(u32::MAX);
                tokio::time::sleep_until(at.into()).await;
                match connection.send(request).await.map_err(|error| error.to_string())? {
                    (200, _) => {
                        run.answered += 1;
                        run.milliseconds.push(at.elapsed().as_secs_f64() * 1e3);
                    }
                    _ => run.refused += 1,
                }
            }
        }));
    }
    combine(workers, started).await
}

/// Adds up the results of all connections.
async fn combine(workers: Vec<JoinHandle<Result<Run, String>>>, started: Instant) -> BenchResult<Run> {
    let mut all = Run::default();
    for worker in workers {
        let run = worker.await??;
        all.answered += run.answered;
        all.refused += run.refused;
        all.milliseconds.extend(run.milliseconds);
    }
    all.seconds = started.elapsed().as_secs_f64();
    all.milliseconds.sort_by(f64::total_cmp);
    Ok(all)
}
