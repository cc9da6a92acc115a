//! Curve25519 keys as WireGuard writes them: 32 bytes, base64 with padding in text (`wg(8)`).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key.
const LEN: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a WireGuard key is 44 characters of base64 (32 bytes), this is {0} characters")]
    Length(usize),
    #[error("a WireGuard key is base64, this is not")]
    Base64,
    #[error("the key is all zeros, which no node may use")]
    Zero,
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LEN]);

impl PublicKey {
    /// Errors: all zeros, which is what a peer without a key looks like and what Cilium's own dummy peer uses.
    pub fn from_bytes(bytes: [u8; LEN]) -> Result<Self, KeyError> {
        if bytes == [0; LEN] { Err(KeyError::Zero) } else { Ok(Self(bytes)) }
    }

    pub const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(*decode(text)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The private half: overwritten when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; LEN]>);

impl PrivateKey {
    /// From 32 random bytes, clamped as Curve25519 wants it (RFC 7748 section 5).
    pub fn from_random(mut bytes: [u8; LEN]) -> Self {
        bytes[0] &= 0xf8;
        bytes[31] = (bytes[31] & 0x7f) | 0x40;
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Base64, for a key file or a device's control socket.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text)?;
        if *bytes == [0; LEN] { Err(KeyError::Zero) } else { Ok(Self::from_random(*bytes)) }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; LEN]>, KeyError> {
    if text.len() != 44 {
        return Err(KeyError::Length(text.chars().count()));
    }
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::Base64)?);
    let mut key = Zeroizing::new([0; LEN]);
    if bytes.len() != LEN {
        return Err(KeyError::Length(text.len()));
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 6.1: Alice's keys.
    #[test]
    fn the_public_half_is_that_of_the_rfc() {
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(private.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(format!("{private:?}"), "PrivateKey(..)");
    }

    #[test]
    fn what_is_no_key_is_named() {
        let zero = STANDARD.encode([0u8; 32]);
        for (text, error) in [
            ("", KeyError::Length(0)),
            ("abc=", KeyError::Length(4)),
            (zero.as_str(), KeyError::Zero),
            ("!SDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", KeyError::Base64),
            // 33 bytes fill 44 characters too.
            ("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmoA", KeyError::Length(44)),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(error), "{text}");
        }
    }
}
