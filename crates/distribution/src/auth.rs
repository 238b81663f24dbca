//! Tokens and passwords: what to send after a challenge, and `POST /auth`.
//!
//! What must stay true: a password leaves only for the registry it was given for, or over TLS for the token server that
//! this registry names; a token server that the registry names is held to the same reach as a redirect.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;

use crate::challenge::Challenge;
use crate::client::{Failure, RegistryClient, api_error, challenges};
use crate::config::{Endpoint, is_private};
use crate::transport::{Reach, Transport};
use crate::url::{Base, encode, for_people};
use crate::{Credentials, DistributionError, LoginOutcome, Secret};

/// Longest answer of a token server.
const MAX_TOKEN: u64 = 1 << 20;
/// What Docker's daemon calls itself at token servers.
const CLIENT_ID: &str = "docker";
/// The name under which clients keep Docker Hub's credentials.
const HUB_LOGIN: &str = "https://index.docker.io/v1/";

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    format!("Basic {}", BASE64.encode(pair))
}

/// Who talks to whom.
#[derive(Debug)]
pub(crate) struct Party<'a> {
    pub(crate) transport: &'a Arc<Transport>,
    pub(crate) endpoint: &'a Endpoint,
    /// Where a token server may be.
    pub(crate) reach: Reach,
    pub(crate) credentials: &'a Credentials,
}

impl Party<'_> {
    /// What to put into `Authorization` after `challenges`. `context` is the method and URL for error messages.
    pub(crate) async fn authorize(
        &self,
        challenges: &[Challenge],
        scope: &str,
        context: &(&'static str, String),
    ) -> Result<String, Failure> {
        let (method, url) = context;
        let failed = |detail: &str| {
            Failure::Other(DistributionError::Unauthorized(format!(
                "{method} \"{url}\": {detail}"
            )))
        };
        if !self.credentials.registry_token.is_empty() {
            return Ok(format!(
                "Bearer {}",
                self.credentials.registry_token.expose()
            ));
        }
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match bearer {
            Some(Challenge::Bearer {
                realm,
                service,
                scope: asked,
                ..
            }) => {
                let scope = if asked.is_empty() { scope } else { asked };
                let fetched = Token {
                    party: self,
                    realm,
                    service,
                }
                .fetch(scope, false)
                .await;
                fetched
                    .map(|(token, _)| format!("Bearer {token}"))
                    .map_err(|failure| match failure {
                        Failure::Api(api)
                            if matches!(
                                api.status,
                                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                            ) =>
                        {
                            let why = if api.message.is_empty() {
                                "authentication required"
                            } else {
                                &api.message
                            };
                            failed(&format!("unauthorized: {why}"))
                        }
                        Failure::Api(api) => failed(&format!(
                            "failed to fetch oauth token: unexpected status: {}",
                            api.status
                        )),
                        other => other,
                    })
            }
            _ if self.credentials.username.is_empty() => Err(failed("no basic auth credentials")),
            _ => Ok(basic(self.credentials)),
        }
    }
}

struct Token<'a> {
    party: &'a Party<'a>,
    realm: &'a str,
    service: &'a str,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Token<'_> {
    /// Asks the token server; with `offline` also for a token to keep. An empty scope asks for none.
    async fn fetch(&self, scope: &str, offline: bool) -> Result<(String, Secret), Failure> {
        let refused = |why| {
            Failure::Other(DistributionError::Redirect {
                from: self.party.endpoint.base.authority(),
                to: self.realm.split('?').next().unwrap_or("").to_owned(),
                why,
            })
        };
        let realm: Uri = self
            .realm
            .parse()
            .map_err(|_| refused("its token server has no HTTP address"))?;
        let server =
            Base::of_uri(&realm).ok_or_else(|| refused("its token server has no HTTP address"))?;
        let insecure = self.party.endpoint.insecure;
        if !self.party.credentials.is_anonymous()
            && self.party.endpoint.base.https
            && !server.https
            && !insecure
        {
            return Err(refused("its token server would get a password over HTTP"));
        }
        let scopes: Vec<&str> = scope.split(' ').filter(|scope| !scope.is_empty()).collect();
        let request = if self.party.credentials.identity_token.is_empty() {
            self.get(&realm, &scopes, offline)
        } else {
            self.post(&realm, &scopes)
        };
        let request = request.map_err(|_| refused("its token server has no HTTP address"))?;
        let method = if request.method() == Method::POST {
            "Post"
        } else {
            "Get"
        };
        let reach = if server.same_server(&self.party.endpoint.base) {
            Reach::Any
        } else {
            self.party.reach
        };
        let url = for_people(&realm);
        let answer = self
            .party
            .transport
            .send(request, insecure, reach)
            .await
            .map_err(|error| {
                if error.forbidden {
                    return refused("its token server is in a private network");
                }
                Failure::Transport {
                    method,
                    url: url.clone(),
                    error,
                }
            })?;
        if !answer.head.status.is_success() {
            return Err(Failure::Api(api_error(answer, &[]).await));
        }
        let body = answer
            .collect(MAX_TOKEN)
            .await
            .map_err(|error| Failure::Transport { method, url, error })?;
        let too_large = |_| {
            Failure::Other(DistributionError::TooLarge {
                context: "token".to_owned(),
                limit: MAX_TOKEN,
            })
        };
        let body = body.map_err(too_large)?;
        let parsed: TokenAnswer = serde_json::from_slice(&body).unwrap_or_default();
        let token = parsed
            .token
            .filter(|token| !token.is_empty())
            .or(parsed.access_token);
        let fine =
            |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        match token.filter(fine) {
            Some(token) => Ok((token, Secret::new(parsed.refresh_token.unwrap_or_default()))),
            None => Err(Failure::Other(DistributionError::Unauthorized(
                "authorization server did not include a token in the response".to_owned(),
            ))),
        }
    }

    fn get(
        &self,
        realm: &Uri,
        scopes: &[&str],
        offline: bool,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut query: Vec<String> = realm.query().map(str::to_owned).into_iter().collect();
        if !self.service.is_empty() {
            query.push(format!("service={}", encode(self.service)));
        }
        query.extend(
            scopes
                .iter()
                .map(|scope| format!("scope={}", encode(scope))),
        );
        if offline {
            query.push(format!("offline_token=true&client_id={CLIENT_ID}"));
        }
        if !self.party.credentials.username.is_empty() {
            query.push(format!(
                "account={}",
                encode(&self.party.credentials.username)
            ));
        }
        let base = realm.to_string();
        let base = base.split('?').next().unwrap_or("");
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("{base}?{}", query.join("&")));
        if !self.party.credentials.username.is_empty() {
            request = request.header(AUTHORIZATION, basic(self.party.credentials));
        }
        request
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::new()))
    }

    fn post(&self, realm: &Uri, scopes: &[&str]) -> Result<Request<Full<Bytes>>, http::Error> {
        let form = format!(
            "grant_type=refresh_token&client_id={CLIENT_ID}&service={}&scope={}&refresh_token={}",
            encode(self.service),
            encode(&scopes.join(" ")),
            encode(self.party.credentials.identity_token.expose())
        );
        Request::builder()
            .method(Method::POST)
            .uri(realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Full::new(form.into()))
    }
}

impl RegistryClient {
    /// Asks a registry whether it takes these credentials (`POST /auth`).
    ///
    /// # Errors
    /// [`DistributionError::Unauthorized`] when it does not.
    pub async fn check_login(
        &self,
        credentials: &Credentials,
    ) -> Result<LoginOutcome, DistributionError> {
        let given = credentials.server_address.trim();
        let given = if given.is_empty() { HUB_LOGIN } else { given };
        let host = given
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        let domain = if matches!(
            host,
            "index.docker.io" | "docker.io" | "registry-1.docker.io"
        ) {
            "docker.io"
        } else {
            host
        };
        let mut last = None;
        for endpoint in self
            .config
            .endpoints(domain)?
            .into_iter()
            .filter(|endpoint| !endpoint.mirror)
        {
            match self.log_in(&endpoint, credentials).await {
                Ok(outcome) => return Ok(outcome),
                Err(Failure::Transport { method, url, error }) => {
                    last = Some(DistributionError::Transport {
                        method,
                        url,
                        detail: error.detail,
                    });
                }
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Api(api)) => {
                    let url = endpoint.base.url("/v2/");
                    return Err(DistributionError::Unauthorized(match api.status {
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                            if !api.message.is_empty() =>
                        {
                            format!("Get \"{url}\": unauthorized: {}", api.message)
                        }
                        status => format!("login attempt to {url} failed with status: {status}"),
                    }));
                }
            }
        }
        Err(last.unwrap_or_else(|| DistributionError::Config {
            what: "registry",
            value: given.to_owned(),
            why: "no endpoint".to_owned(),
        }))
    }

    async fn log_in(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<LoginOutcome, Failure> {
        let url = endpoint.base.url("/v2/");
        let ask = async |authorization: Option<String>| {
            let mut request = Request::builder().method(Method::GET).uri(&url);
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let bad = |error: http::Error| {
                Failure::Other(DistributionError::Config {
                    what: "registry",
                    value: url.clone(),
                    why: error.to_string(),
                })
            };
            let request = request.body(Full::new(Bytes::new())).map_err(bad)?;
            let sent = self
                .transport
                .send(request, endpoint.insecure, Reach::Any)
                .await;
            sent.map_err(|error| Failure::Transport {
                method: "Get",
                url: url.clone(),
                error,
            })
        };
        let done = |identity_token| LoginOutcome {
            status: "Login Succeeded".to_owned(),
            identity_token,
        };
        let answer = ask(None).await?;
        if answer.head.status.is_success() {
            return Ok(done(Secret::default()));
        }
        let wanted = challenges(&answer);
        let reach = if endpoint.insecure || is_private(answer.peer) {
            Reach::Any
        } else {
            Reach::Public
        };
        if answer.head.status != StatusCode::UNAUTHORIZED || wanted.is_empty() {
            return Err(Failure::Api(api_error(answer, &[]).await));
        }
        let bearer = wanted
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let (authorization, kept) = match bearer {
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
                ..
            }) => {
                let party = Party {
                    transport: &self.transport,
                    endpoint,
                    reach,
                    credentials,
                };
                let (token, kept) = Token {
                    party: &party,
                    realm,
                    service,
                }
                .fetch(scope, true)
                .await?;
                (format!("Bearer {token}"), kept)
            }
            _ => (basic(credentials), Secret::default()),
        };
        let answer = ask(Some(authorization)).await?;
        if answer.head.status.is_success() {
            return Ok(done(kept));
        }
        let status = answer.head.status;
        Err(Failure::Other(DistributionError::Unauthorized(format!(
            "login attempt to {url} failed with status: {status}"
        ))))
    }
}
