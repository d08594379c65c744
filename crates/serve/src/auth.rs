//! Who asks: API keys.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::api::ApiError;
use crate::error::Error;
use crate::options::KeyOptions;
use crate::state::AppState;

/// Keys are compared at this length, so that the time tells nothing of theirs.
const MAX_KEY_BYTES: usize = 256;

/// The name of those who need no key.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    /// Whether it may load and unload adapters.
    pub(crate) admin: bool,
}

/// The keys that are accepted; without one, everybody is.
pub(crate) struct Keys(Vec<Key>);

struct Key {
    secret: [u8; MAX_KEY_BYTES],
    length: u64,
    tenant: Tenant,
}

impl Keys {
    pub(crate) fn new(options: Vec<KeyOptions>) -> Result<Self, Error> {
        let mut keys: Vec<Key> = Vec::new();
        for option in options {
            option.rate.validate()?;
            let usable = |byte: u8| byte.is_ascii_graphic();
            if option.name.is_empty() || option.name == ANONYMOUS {
                return Err(Error::InvalidOption {
                    field: "keys.name",
                    expected: "a name other than `anonymous`",
                    got: format!("{:?}", option.name),
                });
            }
            let length = option.key.len();
            if !(8..=MAX_KEY_BYTES).contains(&length) || !option.key.bytes().all(usable) {
                return Err(Error::InvalidOption {
                    field: "keys.key",
                    expected: "8 to 256 visible ASCII characters",
                    got: format!("{length} bytes for {:?}", option.name),
                });
            }
            let key = Key {
                secret: padded(option.key.as_bytes()),
                length: length as u64,
                tenant: Tenant {
                    name: option.name,
                    admin: option.admin,
                },
            };
            for other in &keys {
                let what = match () {
                    () if other.tenant.name == key.tenant.name => key.tenant.name.clone(),
                    () if other.secret == key.secret => {
                        format!("the key of {} and {}", other.tenant.name, key.tenant.name)
                    }
                    () => continue,
                };
                return Err(Error::DuplicateKey { what });
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// Whether requests need a key.
    pub(crate) fn required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whose key this is, looking at every key in full whichever it is.
    fn find(&self, given: &[u8]) -> Option<&Tenant> {
        let fits = Choice::from(u8::from(given.len() <= MAX_KEY_BYTES));
        let secret = padded(given);
        let length = given.len() as u64;
        let mut found = u64::MAX;
        for (index, key) in (0u64..).zip(&self.0) {
            let same = key.secret.ct_eq(&secret) & key.length.ct_eq(&length) & fits;
            found.conditional_assign(&index, same);
        }
        self.0
            .get(usize::try_from(found).ok()?)
            .map(|key| &key.tenant)
    }
}

fn padded(bytes: &[u8]) -> [u8; MAX_KEY_BYTES] {
    let mut out = [0; MAX_KEY_BYTES];
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = *byte;
    }
    out
}

/// Lets only those through that have a key, where one is needed.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let tenant = if state.keys.required() {
        let given = request.headers().get(AUTHORIZATION);
        let given = given.map(axum::http::HeaderValue::as_bytes);
        let given = given.and_then(|value| {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        match given.and_then(|key| state.keys.find(key)) {
            Some(tenant) => tenant.clone(),
            None => return ApiError::unauthorized(given.is_some()).into_response(),
        }
    } else {
        Tenant {
            name: ANONYMOUS.to_owned(),
            admin: true,
        }
    };
    tracing::Span::current().record("tenant", &tenant.name);
    request.extensions_mut().insert(tenant);
    next.run(request).await
}

impl FromRequestParts<AppState> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let tenant = parts.extensions.get::<Self>().cloned();
        tenant.ok_or_else(|| ApiError::unauthorized(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Rate;

    fn key(name: &str, key: &str) -> KeyOptions {
        KeyOptions {
            name: name.to_owned(),
            key: key.to_owned(),
            admin: false,
            rate: Rate::default(),
        }
    }

    #[test]
    fn a_key_is_found_whole_and_nothing_else() {
        let keys = Keys::new(vec![key("a", "secret-a"), key("b", "secret-bb")]).unwrap();
        let name = |given: &str| keys.find(given.as_bytes()).map(|t| t.name.as_str());
        assert_eq!(name("secret-a"), Some("a"));
        assert_eq!(name("secret-bb"), Some("b"));
        for wrong in [
            "",
            "secret-",
            "secret-b",
            "secret-a\0",
            "secret-aa",
            "SECRET-A",
        ] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        assert_eq!(name(&"x".repeat(10_000)), None);
    }

    #[test]
    fn keys_that_cannot_be_told_apart_are_refused() {
        let error = |keys| Keys::new(keys).err().unwrap().to_string();
        assert_eq!(
            error(vec![key("a", "secret-a"), key("a", "secret-b")]),
            "keys: a stands there twice"
        );
        assert_eq!(
            error(vec![key("a", "secret-a"), key("b", "secret-a")]),
            "keys: the key of a and b stands there twice"
        );
        assert_eq!(
            error(vec![key("a", "short")]),
            "keys.key must be 8 to 256 visible ASCII characters, got 5 bytes for \"a\""
        );
        assert!(error(vec![key("anonymous", "secret-a")]).starts_with("keys.name"));
    }
}
