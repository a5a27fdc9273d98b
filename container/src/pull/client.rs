//! Requests to a registry: who may be asked, how long, how often, and with what credentials.

use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body};

use super::challenge::Challenge;
use super::credentials::Credentials;
use super::error::PullError;

/// How many redirections are followed for one request.
const REDIRECTS_MAX: u32 = 5;
/// A token server says a few kilobytes.
const TOKEN_MAX_BYTES: u64 = 1 << 20;
/// As much is shown of what a server says of an error.
const SAID_MAX_BYTES: u64 = 300;

/// How patient a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often a request is tried; the same holds for a layer whose transfer breaks off, which
    /// goes on where it was.
    pub attempts: u32,
    /// Time before the second attempt; it doubles with each.
    pub pause: Duration,
    /// How long a server may say nothing.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 5,
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(30),
        }
    }
}

/// One registry.
pub(super) struct Client {
    agent: Agent,
    scheme: &'static str,
    pub(super) host: String,
    scope: String,
    credentials: Option<Credentials>,
    /// The value of the header by which the registry lets us in.
    authorization: Mutex<Option<String>>,
    pub(super) patience: Patience,
}

/// What is asked for.
pub(super) struct Asked<'a> {
    /// In messages.
    pub(super) what: &'a str,
    /// Below `/v2/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// Where to begin.
    pub(super) from_byte: u64,
}

/// Why there is no answer.
pub(super) enum Failed {
    /// It may go better another time.
    Transient(io::Error),
    Final(PullError),
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Failed {
        Failed::Final(error)
    }
}

impl Client {
    pub(super) fn new(
        host: &str,
        repository: &str,
        plain_http: bool,
        credentials: Option<Credentials>,
        patience: Patience,
    ) -> Client {
        let silence = Some(patience.silence);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: credentials must not go with them.
            .max_redirects(0)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            .user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")));
        if is_loopback(host) {
            config = config.proxy(None);
        }
        Client {
            agent: config.build().into(),
            scheme: if plain_http { "http" } else { "https" },
            host: host.to_owned(),
            scope: format!("repository:{repository}:pull"),
            credentials,
            authorization: Mutex::new(None),
            patience,
        }
    }

    /// Asks until there is an answer, or it was tried often enough.
    pub(super) fn get(&self, asked: &Asked<'_>) -> Result<Response<Body>, PullError> {
        let mut attempt = 1;
        loop {
            match self.try_get(asked) {
                Ok(response) => return Ok(response),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Transient(source)) if attempt >= self.patience.attempts => {
                    return Err(self.unreachable(asked.what, source));
                }
                Err(Failed::Transient(_)) => self.pause(attempt),
            }
            attempt += 1;
        }
    }

    pub(super) fn unreachable(&self, what: &str, source: io::Error) -> PullError {
        let (what, host) = (what.to_owned(), self.host.clone());
        PullError::Unreachable { what, host, attempts: self.patience.attempts, source }
    }

    /// Waits before another attempt: a server that is overloaded is not helped by haste.
    pub(super) fn pause(&self, attempt: u32) {
        let factor = 1 << attempt.saturating_sub(1).min(5);
        std::thread::sleep(self.patience.pause.saturating_mul(factor));
    }

    /// Asks once.
    pub(super) fn try_get(&self, asked: &Asked<'_>) -> Result<Response<Body>, Failed> {
        let own = format!("{}://{}/v2/{}", self.scheme, self.host, asked.path);
        let own: Uri = own.parse().map_err(|_| self.not_found(asked.what))?;
        let mut is_authorized = false;
        let mut redirects = 0;
        let mut uri = own.clone();
        loop {
            let response = self.send(asked, &uri, &own)?;
            let status = response.status().as_u16();
            match status {
                200 | 206 => return Ok(response),
                401 if is_same_server(&uri, &own) && !is_authorized => {
                    self.authorize(asked.what, response.headers())?;
                    is_authorized = true;
                }
                401 | 403 => return Err(self.denied(asked.what).into()),
                404 => return Err(self.not_found(asked.what).into()),
                301 | 302 | 303 | 307 | 308 => {
                    redirects += 1;
                    uri = self.redirected(asked.what, &uri, response.headers(), redirects)?;
                }
                408 | 429 | 500..=599 => {
                    return Err(Failed::Transient(io::Error::other(format!(
                        "{} answered {status}{}",
                        uri.host().unwrap_or_default(),
                        beginning(response),
                    ))));
                }
                _ => {
                    let (what, host) = (asked.what.to_owned(), self.host.clone());
                    let body = beginning(response);
                    return Err(PullError::Status { what, host, status, body }.into());
                }
            }
        }
    }

    fn send(&self, asked: &Asked<'_>, uri: &Uri, own: &Uri) -> Result<Response<Body>, Failed> {
        let mut request = self.agent.get(uri);
        if let Some(accept) = asked.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if asked.from_byte > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", asked.from_byte));
        }
        // To nobody but the registry itself.
        if is_same_server(uri, own)
            && let Some(value) = self.authorization().as_deref()
        {
            request = request.header(header::AUTHORIZATION, value);
        }
        request.call().map_err(|error| Failed::Transient(plain(error)))
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(|held| held.into_inner()).clone()
    }

    /// Gets what the registry wants to see.
    fn authorize(&self, what: &str, headers: &HeaderMap) -> Result<(), Failed> {
        let challenge = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .find_map(|value| Challenge::parse(value.to_str().ok()?));
        let value = match (challenge, &self.credentials) {
            (Some(Challenge::Basic), Some(credentials)) => credentials.header(),
            (Some(Challenge::Bearer { realm, service }), _) => {
                format!("Bearer {}", self.token(what, &realm, service.as_deref())?)
            }
            _ => return Err(self.denied(what).into()),
        };
        *self.authorization.lock().unwrap_or_else(|held| held.into_inner()) = Some(value);
        Ok(())
    }

    /// Gets a token, with the user's credentials if there are some for this registry.
    fn token(&self, what: &str, realm: &str, service: Option<&str>) -> Result<String, Failed> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let lie = |why: &str| self.lie(what, format!("its token server {}: {why}", cut(realm)));
        let uri: Uri = realm.parse().map_err(|_| lie("the address is malformed"))?;
        let is_allowed = uri.scheme_str() == Some("https") || uri.scheme_str() == Some(self.scheme);
        if !is_allowed || uri.authority().is_none() {
            return Err(lie("it is not asked without TLS").into());
        }
        let mut request = self.agent.get(&uri).query("scope", &self.scope);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(header::AUTHORIZATION, credentials.header());
        }
        let response = request.call().map_err(|error| Failed::Transient(plain(error)))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(self.denied(what).into()),
            status @ (429 | 500..=599) => {
                let error = io::Error::other(format!("the token server answered {status}"));
                return Err(Failed::Transient(error));
            }
            status => return Err(lie(&format!("it answered {status}")).into()),
        }
        let body = bounded(response, TOKEN_MAX_BYTES)
            .map_err(Failed::Transient)?
            .ok_or_else(|| lie("its answer is too long"))?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| lie("its answer is no token"))?;
        answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| lie("its answer is no token").into())
    }

    /// Where a redirection leads, if it may.
    fn redirected(
        &self,
        what: &str,
        from: &Uri,
        headers: &HeaderMap,
        count: u32,
    ) -> Result<Uri, PullError> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default();
        let refused = |why| PullError::Redirect {
            what: what.to_owned(),
            host: self.host.clone(),
            to: cut(location).to_owned(),
            why,
        };
        if count > REDIRECTS_MAX {
            return Err(refused("it was sent on too often"));
        }
        let authority = from.authority().map(ToString::to_string).unwrap_or_default();
        let scheme = from.scheme_str().unwrap_or_default();
        let text = match location {
            path if path.starts_with("//") => format!("{scheme}:{path}"),
            path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
            other => other.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| refused("the address is malformed"))?;
        let authority = uri.authority().map(|it| it.as_str()).unwrap_or_default();
        if authority.is_empty() || authority.contains('@') {
            return Err(refused("the address is malformed"));
        }
        match (from.scheme_str(), uri.scheme_str()) {
            (_, Some("https")) | (Some("http"), Some("http")) => Ok(uri),
            (Some("https"), Some("http")) => Err(refused("it leads away from TLS")),
            _ => Err(refused("it is no address of the web")),
        }
    }

    pub(super) fn lie(&self, what: &str, why: String) -> PullError {
        PullError::Lie { what: what.to_owned(), host: self.host.clone(), why }
    }

    fn not_found(&self, what: &str) -> PullError {
        PullError::NotFound { what: what.to_owned(), host: self.host.clone() }
    }

    fn denied(&self, what: &str) -> PullError {
        let who = self.credentials.as_ref().map_or("anyone", |credentials| &credentials.user);
        PullError::Denied { what: what.to_owned(), host: self.host.clone(), who: who.to_owned() }
    }
}

/// All of a body, if it has not more bytes than that.
pub(super) fn bounded(response: Response<Body>, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    response.into_body().into_reader().take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// What a server said of an error, on one line.
fn beginning(response: Response<Body>) -> String {
    let mut bytes = Vec::new();
    let reader = response.into_body().into_reader();
    // What cannot be read is not said.
    let _ = reader.take(SAID_MAX_BYTES).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn is_same_server(uri: &Uri, own: &Uri) -> bool {
    uri.scheme() == own.scheme() && uri.authority() == own.authority()
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn plain(error: ureq::Error) -> io::Error {
    match error {
        ureq::Error::Io(error) => error,
        ureq::Error::Timeout(_) => {
            io::Error::new(io::ErrorKind::TimedOut, "it said nothing for too long")
        }
        other => io::Error::other(other.to_string()),
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}
