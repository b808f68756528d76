//! The one handler: who calls, which tenant, what is asked, the answer, the commit, and only then a byte to the client.
//! All of it under one deadline; a request that is dropped or late takes its transaction with it.

use super::Front;
use super::accept::{self, Format};
use super::body;
use super::caller::{self, Hint};
use super::cors::Page;
use super::held::Held;
use super::response::{self, Refusal};
use crate::admission::AdmissionPermit;
use crate::auth::Principal;
use crate::error::Error;
use crate::graphql::{self, GraphqlOutcome, GraphqlRequest, PreparedRequest, RenderedResponse};
use crate::guard::{Guard, IdempotencyKey, RequestInfo};
use crate::ids::RequestId;
use crate::telemetry;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// Beyond the deadline of a request, for what is decided at the deadline.
const GRACE: Duration = Duration::from_millis(250);

/// Answers `POST /graphql`.
pub async fn answer(request: HttpRequest, payload: web::Payload, front: web::Data<Front>) -> HttpResponse {
    let id = RequestId::new();
    let told = telemetry::Request::begin(&front.app.metrics, id, caller::parent(request.headers()));
    respond(&front, &request, payload, id, &told).instrument(told.span().clone()).await
}

async fn respond(
    front: &Front,
    request: &HttpRequest,
    mut payload: web::Payload,
    id: RequestId,
    told: &telemetry::Request,
) -> HttpResponse {
    let format = accept::negotiate(request.headers());
    let deadline = Duration::from_millis(front.app.settings.http.request_timeout_ms);
    let stalled = Duration::from_secs(front.app.settings.http.stalled_seconds);
    let mut page = Page::none();
    // What is asked ends by itself at the deadline, so that it can still say what it changed for good.
    let reply = match tokio::time::timeout(
        deadline + GRACE,
        converse(front, request, &mut page, &mut payload, format, id, told),
    )
    .await
    {
        Ok(reply) => reply,
        Err(_) => Err(Error::Timeout.into()),
    };
    let format = format.unwrap_or(Format::Json);
    let mut answer = match reply {
        Ok(Reply { status, said, pass }) => {
            told.failed(said.codes);
            told.answered(status.as_u16());
            response::said(status, format, id, Held::new(said.body, pass, stalled))
        }
        Err(refusal) => {
            told.failed([refusal.error.code()]);
            told.answered(refusal.status.as_u16());
            body::discard(payload, front.app.settings.limits.body_bytes).await;
            response::refuse(refusal, format, id)
        }
    };
    page.mark(answer.headers_mut());
    answer
}

struct Reply {
    status: StatusCode,
    said: RenderedResponse,
    pass: AdmissionPermit,
}

async fn converse(
    front: &Front,
    request: &HttpRequest,
    page: &mut Page,
    payload: &mut web::Payload,
    format: Option<Format>,
    id: RequestId,
    told: &telemetry::Request,
) -> Result<Reply, Refusal> {
    *page = Page::of(front, request)?;
    let visit = Visit::begin(front, request, id, told).await?;
    // Whoever may not come in learns nothing about what they sent.
    let guard = visit.admit().await?;
    told.admitted(guard.tenant().id);
    page.asks(guard.tenant())?;
    let pass = front.app.admission.enter(guard.tenant(), guard.staff_id())?;
    let format = format.ok_or_else(not_acceptable)?;
    body::check_type(request.headers())?;
    let bytes = body::read(request.headers(), payload, front.app.settings.limits.body_bytes).await?;
    let idempotency =
        caller::idempotency_key(request.headers())?.map(|key| IdempotencyKey { key, body: bytes.to_vec() });
    let prepared = match front.api.prepare(GraphqlRequest::read(&bytes)?) {
        Ok(prepared) => prepared.idempotency(idempotency),
        Err(said) => return Ok(Reply { status: refused(format), said, pass }),
    };
    told.asks(prepared.kind());
    match visit.ask(guard, &prepared).await? {
        GraphqlOutcome::Data(said) => Ok(Reply { status: StatusCode::OK, said, pass }),
        GraphqlOutcome::Refused(said) => Ok(Reply { status: refused(format), said, pass }),
        GraphqlOutcome::Failed(error) => Err(error.into()),
    }
}

/// A known caller, at the door.
struct Visit<'a> {
    front: &'a Front,
    principal: Principal,
    hint: Hint,
    info: RequestInfo,
    deadline: Instant,
}

impl<'a> Visit<'a> {
    async fn begin(
        front: &'a Front,
        request: &HttpRequest,
        id: RequestId,
        told: &telemetry::Request,
    ) -> Result<Self, Refusal> {
        let principal = known(front, request).await.inspect_err(|refusal| {
            if refusal.status == StatusCode::UNAUTHORIZED {
                front.app.guards.refused("unauthenticated");
            }
        })?;
        let hint = Hint::of(request, front.app.settings.http.domain.as_deref())?;
        let deadline = Instant::now() + Duration::from_millis(front.app.settings.http.request_timeout_ms);
        Ok(Self { front, principal, hint, info: caller::info(request, id, told), deadline })
    }

    async fn admit(&self) -> Result<Arc<Guard>, Error> {
        self.front.app.guards.admit(&self.principal, self.hint.as_ref(), self.info.clone()).await.map(Arc::new)
    }

    /// Asks, and asks once more when the tenant turned out to have moved: nothing has left by then.
    async fn ask(&self, guard: Arc<Guard>, prepared: &PreparedRequest) -> Result<GraphqlOutcome, Error> {
        match self.ask_once(&guard, prepared).await {
            GraphqlOutcome::Failed(Error::PlacementChanged) => {
                guard.look_again().await?;
                // With its session and its turn at the server: it would wait for itself.
                drop(guard);
                Ok(self.ask_once(&self.admit().await?, prepared).await)
            }
            answer => Ok(answer),
        }
    }

    /// The answer, once who saw it is written down.
    async fn ask_once(&self, guard: &Arc<Guard>, prepared: &PreparedRequest) -> GraphqlOutcome {
        let answered = async {
            match self.front.api.answer(prepared, guard).await {
                GraphqlOutcome::Failed(error) => {
                    guard.abandon().await;
                    failed(guard, error)
                }
                answer => match guard.finish().await {
                    Ok(()) => answer,
                    Err(error) => failed(guard, error),
                },
            }
        };
        // What runs is dropped, and stopped in PostgreSQL, with its transaction.
        tokio::time::timeout_at(self.deadline, answered).await.unwrap_or_else(|_| failed(guard, Error::Timeout))
    }
}

/// A failure of the request as a whole; what was changed before it is said, and not done again.
fn failed(guard: &Guard, error: Error) -> GraphqlOutcome {
    match guard.written().as_slice() {
        [] => GraphqlOutcome::Failed(error),
        written => GraphqlOutcome::Data(graphql::stands(error, written)),
    }
}

async fn known(front: &Front, request: &HttpRequest) -> Result<Principal, Refusal> {
    Ok(front.app.verifier.verify(caller::bearer(request.headers())?).await?)
}

/// The status of a well-formed request that is no question of this schema.
fn refused(format: Format) -> StatusCode {
    match format {
        Format::Response => StatusCode::BAD_REQUEST,
        Format::Json => StatusCode::OK,
    }
}

fn not_acceptable() -> Refusal {
    Refusal::new(
        StatusCode::NOT_ACCEPTABLE,
        "Accept",
        "must allow application/graphql-response+json or application/json",
    )
}
