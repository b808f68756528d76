//! The handler of `POST /graphql`. It authenticates the caller, chooses the tenant, executes the request and commits
//! its audit records; only then is the first byte sent to the client. All of this happens under one deadline. When a
//! request is dropped or takes too long, its transaction ends with it.

use super::ServerState;
use super::accept::{self, MediaType};
use super::body;
use super::caller::{self, OwnedTenantHint};
use super::cors::RequestOrigin;
use super::permit_body::PermitBody;
use super::response::{self, HttpError};
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

/// Time beyond a request's deadline for building the response that says the deadline has passed.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// Handles `POST /graphql`.
pub async fn post(request: HttpRequest, payload: web::Payload, state: web::Data<ServerState>) -> HttpResponse {
    let id = RequestId::new();
    let request_telemetry =
        telemetry::RequestTelemetry::begin(&state.app.metrics, id, caller::parent(request.headers()));
    respond(&state, &request, payload, id, &request_telemetry).instrument(request_telemetry.span().clone()).await
}

async fn respond(
    state: &ServerState,
    request: &HttpRequest,
    mut payload: web::Payload,
    id: RequestId,
    request_telemetry: &telemetry::RequestTelemetry,
) -> HttpResponse {
    let accepted = accept::negotiate(request.headers());
    let deadline = Duration::from_millis(state.app.settings.http.request_timeout_ms);
    let stall_timeout = Duration::from_secs(state.app.settings.http.stalled_seconds);
    let mut origin = RequestOrigin::same();
    // Execution ends by itself at the deadline, so that the response can still name what has been committed. This
    // timeout is for the rest.
    let result = match tokio::time::timeout(
        deadline + DEADLINE_GRACE,
        process(state, request, &mut origin, &mut payload, accepted, id, request_telemetry),
    )
    .await
    {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout.into()),
    };
    let media_type = accepted.unwrap_or(MediaType::Json);
    let mut response = match result {
        Ok(PermittedResponse { status, rendered, permit }) => {
            request_telemetry.add_error_codes(rendered.codes);
            request_telemetry.set_status(status.as_u16());
            response::rendered(status, media_type, id, PermitBody::new(rendered.body, permit, stall_timeout))
        }
        Err(error) => {
            request_telemetry.add_error_codes([error.error.code()]);
            request_telemetry.set_status(error.status.as_u16());
            body::discard(payload, state.app.settings.limits.body_bytes).await;
            response::from_error(error, media_type, id)
        }
    };
    origin.add_headers(response.headers_mut());
    response
}

/// A response of GraphQL, and the admission permit that it keeps until it is sent.
struct PermittedResponse {
    status: StatusCode,
    rendered: RenderedResponse,
    permit: AdmissionPermit,
}

/// Checks and executes a request, step by step. `origin` is an output as well: the caller adds its headers to errors
/// too.
async fn process(
    state: &ServerState,
    request: &HttpRequest,
    origin: &mut RequestOrigin,
    payload: &mut web::Payload,
    accepted: Option<MediaType>,
    id: RequestId,
    request_telemetry: &telemetry::RequestTelemetry,
) -> Result<PermittedResponse, HttpError> {
    *origin = RequestOrigin::from_request(state, request)?;
    let authenticated = AuthenticatedRequest::begin(state, request, id, request_telemetry).await?;
    // Content negotiation, media type and body are checked later: a caller without access gets no error about what it
    // sent.
    let guard = authenticated.open_guard().await?;
    request_telemetry.set_tenant(guard.tenant().id);
    origin.authorize(guard.tenant())?;
    let permit = state.app.admission.admit(guard.tenant(), guard.staff_id())?;
    let media_type = accepted.ok_or_else(not_acceptable)?;
    body::check_type(request.headers())?;
    let bytes = body::read(request.headers(), payload, state.app.settings.limits.body_bytes).await?;
    let idempotency =
        caller::idempotency_key(request.headers())?.map(|key| IdempotencyKey { key, body: bytes.to_vec() });
    let prepared = match state.api.prepare(GraphqlRequest::from_json(&bytes)?) {
        Ok(prepared) => prepared.with_idempotency_key(idempotency),
        Err(rendered) => return Ok(PermittedResponse { status: refused_status(media_type), rendered, permit }),
    };
    request_telemetry.set_operation_kind(prepared.kind());
    match authenticated.execute(guard, &prepared).await? {
        GraphqlOutcome::Data(rendered) => Ok(PermittedResponse { status: StatusCode::OK, rendered, permit }),
        GraphqlOutcome::Refused(rendered) => {
            Ok(PermittedResponse { status: refused_status(media_type), rendered, permit })
        }
        GraphqlOutcome::Failed(error) => Err(error.into()),
    }
}

/// A request whose token has been verified.
struct AuthenticatedRequest<'a> {
    state: &'a ServerState,
    principal: Principal,
    hint: OwnedTenantHint,
    info: RequestInfo,
    deadline: Instant,
}

impl<'a> AuthenticatedRequest<'a> {
    async fn begin(
        state: &'a ServerState,
        request: &HttpRequest,
        id: RequestId,
        request_telemetry: &telemetry::RequestTelemetry,
    ) -> Result<Self, HttpError> {
        let principal = authenticate(state, request).await.inspect_err(|error| {
            if error.status == StatusCode::UNAUTHORIZED {
                state.app.guards.count_security_event("unauthenticated");
            }
        })?;
        let hint = OwnedTenantHint::from_request(request, state.app.settings.http.domain.as_deref())?;
        let deadline = Instant::now() + Duration::from_millis(state.app.settings.http.request_timeout_ms);
        Ok(Self { state, principal, hint, info: caller::request_info(request, id, request_telemetry), deadline })
    }

    async fn open_guard(&self) -> Result<Arc<Guard>, Error> {
        self.state.app.guards.open_guard(&self.principal, self.hint.as_ref(), self.info.clone()).await.map(Arc::new)
    }

    /// Executes the request, and executes it once more when the tenant turned out to have moved. Nothing has been sent
    /// by then.
    async fn execute(&self, guard: Arc<Guard>, prepared: &PreparedRequest) -> Result<GraphqlOutcome, Error> {
        match self.execute_once(&guard, prepared).await {
            GraphqlOutcome::Failed(Error::PlacementChanged) => {
                guard.refresh_placement().await?;
                // The guard still holds its session and its place in the server's queue: the second attempt would wait
                // for the first.
                drop(guard);
                Ok(self.execute_once(&self.open_guard().await?, prepared).await)
            }
            outcome => Ok(outcome),
        }
    }

    /// Executes the request and commits its access records. The outcome is an error when they cannot be committed.
    async fn execute_once(&self, guard: &Arc<Guard>, prepared: &PreparedRequest) -> GraphqlOutcome {
        let execution = async {
            match self.state.api.execute(prepared, guard).await {
                GraphqlOutcome::Failed(error) => {
                    guard.rollback().await;
                    failed(guard, error)
                }
                outcome => match guard.finish().await {
                    Ok(()) => outcome,
                    Err(error) => failed(guard, error),
                },
            }
        };
        // At the deadline the execution is dropped together with its transaction, and its statement is cancelled in
        // PostgreSQL.
        tokio::time::timeout_at(self.deadline, execution).await.unwrap_or_else(|_| failed(guard, Error::Timeout))
    }
}

/// The outcome of a request that failed as a whole. When mutations have been committed before, the response is not an
/// HTTP error: it names them, and the request is not executed a second time.
fn failed(guard: &Guard, error: Error) -> GraphqlOutcome {
    match guard.committed_actions().as_slice() {
        [] => GraphqlOutcome::Failed(error),
        committed => GraphqlOutcome::Data(graphql::partial_failure(error, committed)),
    }
}

async fn authenticate(state: &ServerState, request: &HttpRequest) -> Result<Principal, HttpError> {
    Ok(state.app.verifier.verify(caller::bearer(request.headers())?).await?)
}

/// The status of a well-formed request that is not valid for this schema, by the GraphQL-over-HTTP specification.
fn refused_status(media_type: MediaType) -> StatusCode {
    match media_type {
        MediaType::GraphqlResponse => StatusCode::BAD_REQUEST,
        MediaType::Json => StatusCode::OK,
    }
}

fn not_acceptable() -> HttpError {
    HttpError::new(
        StatusCode::NOT_ACCEPTABLE,
        "Accept",
        "must allow application/graphql-response+json or application/json",
    )
}
