//! PEM in, DER out; and private keys as other tools write them (PKCS#1, SEC1) into the one form that is signed with
//! (PKCS#8).

use x509_parser::pem::Pem;
use zeroize::Zeroizing;

/// The first certificate in a file, as DER.
pub(crate) fn certificate(pem: &[u8]) -> Option<Vec<u8>> {
    first(pem, |label| label == "CERTIFICATE")
}

/// The first private key in a file, as PKCS#8. `spki` is the DER of the public key that belongs to it, which names the
/// algorithm where the key's own form does not.
pub(crate) fn private_key(pem: &[u8], spki: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let pkcs8 = first(pem, |label| label == "PRIVATE KEY").map(Zeroizing::new);
    pkcs8.or_else(|| {
        let bare = first(pem, |label| label == "RSA PRIVATE KEY" || label == "EC PRIVATE KEY").map(Zeroizing::new)?;
        let (_, inner, _) = element(spki)?;
        let (_, _, after) = element(inner)?;
        let algorithm = &inner[..inner.len() - after.len()];
        Some(wrap(algorithm, &bare))
    })
}

fn first(pem: &[u8], wanted: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    Pem::iter_from_buffer(pem).filter_map(Result::ok).find(|block| wanted(&block.label)).map(|block| block.contents)
}

/// RFC 5208 section 5: version 0, algorithm, key.
fn wrap(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = tagged(0x04, &[key]);
    tagged(0x30, &[&[0x02, 0x01, 0x00], algorithm, &key])
}

/// A DER element.
fn tagged(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // Room for all of it, so that no piece of a key stays behind in a buffer that was too small.
    let mut der = Zeroizing::new(Vec::with_capacity(length + 6));
    der.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
            let significant = &bytes[zeros..];
            der.push(0x80 | u8::try_from(significant.len()).expect("a length has at most eight bytes"));
            der.extend_from_slice(significant);
        }
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

/// Takes one DER element off: its tag, its content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().try_fold(0_usize, |n, &b| n.checked_mul(256)?.checked_add(usize::from(b)))?;
            (length, rest)
        }
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_lengths() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let der = tagged(0x04, &[&content]);
            assert_eq!(element(&der), Some((0x04, content.as_slice(), &[][..])), "{length}");
        }
        for bad in [&[][..], &[4], &[4, 1], &[4, 0x81], &[4, 0x82, 1], &[4, 0xff, 1, 1]] {
            assert_eq!(element(bad), None, "{bad:?}");
        }
    }
}
