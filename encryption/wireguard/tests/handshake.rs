//! The handshake against another implementation of Noise IKpsk2, `snow`, with WireGuard's names put around it here
//! (white paper section 5.4).
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use causeway_encryption_plan::PrivateKey;
use net::{Node, at, key, packet, v4};
use snow::{Builder, HandshakeState, StatelessTransportState};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// 2026-01-01 in TAI64N.
const TIMESTAMP: [u8; 12] = [0x40, 0, 0, 0, 0x69, 0x55, 0xb9, 0x25, 0, 0, 0, 0];
const OUR_INDEX: [u8; 4] = [0xca, 0xfe, 0xba, 0xbe];

fn builder<'k>(own: &'k PrivateKey) -> Builder<'k> {
    let builder = Builder::new(PATTERN.parse().unwrap()).prologue(PROLOGUE).unwrap();
    builder.psk(2, &[0; 32]).unwrap().local_private_key(own.as_bytes()).unwrap()
}

/// `MAC(HASH("mac1----" || to), message)`, behind the message, and no second MAC.
fn with_macs(mut message: Vec<u8>, to: &PrivateKey) -> Vec<u8> {
    let mac = mac1(&message, to);
    message.extend(mac);
    message.extend([0; 16]);
    message
}

fn mac1(message: &[u8], to: &PrivateKey) -> [u8; 16] {
    let mut hash = Blake2s256::new();
    hash.update(b"mac1----");
    hash.update(to.public().as_bytes());
    let mut mac = <Blake2sMac<U16> as blake2::digest::KeyInit>::new_from_slice(&hash.finalize()).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn initiation(noise: &mut HandshakeState, to: &PrivateKey) -> Vec<u8> {
    let mut inside = [0; 108];
    assert_eq!(noise.write_message(&TIMESTAMP, &mut inside).unwrap(), inside.len());
    with_macs([&[1, 0, 0, 0], &OUR_INDEX, &inside[..]].concat(), to)
}

/// A data message of snow's.
fn data(noise: &StatelessTransportState, receiver: &[u8], counter: u64, payload: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; payload.len() + 16];
    noise.write_message(counter, payload, &mut sealed).unwrap();
    [&[4, 0, 0, 0], receiver, &counter.to_le_bytes(), &sealed[..]].concat()
}

/// The payload of a data message for snow.
fn opened(noise: &StatelessTransportState, counter: u64, datagram: &[u8]) -> Vec<u8> {
    assert_eq!(datagram[..4], [4, 0, 0, 0]);
    assert_eq!(datagram[4..8], OUR_INDEX);
    assert_eq!(datagram[8..16], counter.to_le_bytes());
    let mut payload = vec![0; datagram.len() - 32];
    noise.read_message(counter, &datagram[16..], &mut payload).unwrap();
    payload
}

fn padded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.resize(packet.len().next_multiple_of(16), 0);
    packet
}

#[test]
fn another_implementation_initiates() {
    let (snow, ours) = (key(1), key(2));
    let mut node = Node::knowing(2, &[1]);
    let mut noise = builder(&snow).remote_public_key(ours.public().as_bytes()).unwrap().build_initiator().unwrap();
    let answers = node.open(at(1), &initiation(&mut noise, &ours));
    let response = &answers[0].1;
    assert_eq!((answers.len(), response.len()), (1, 92));
    assert_eq!(response[..4], [2, 0, 0, 0]);
    assert_eq!(response[8..12], OUR_INDEX);
    assert_eq!(response[60..76], mac1(&response[..60], &snow));
    assert_eq!(response[76..], [0; 16]);
    assert_eq!(noise.read_message(&response[12..60], &mut []).unwrap(), 0);
    let noise = noise.into_stateless_transport_mode().unwrap();

    let (there, back) = (packet(v4(1, 1), v4(2, 1), b"from snow"), packet(v4(2, 1), v4(1, 1), b"to snow"));
    assert!(!node.only_link(1).confirmed);
    assert_eq!(node.open(at(1), &data(&noise, &response[4..8], 0, &padded(&there))), []);
    assert_eq!(node.inner, [there]);
    assert!(node.only_link(1).confirmed);
    for counter in 0..3 {
        assert_eq!(opened(&noise, counter, &node.seal(&back)[0].1), padded(&back));
    }
}

#[test]
fn another_implementation_responds() {
    let (snow, ours) = (key(1), key(2));
    let mut node = Node::knowing(2, &[1]);
    let (there, back) = (packet(v4(1, 1), v4(2, 1), b"from snow"), packet(v4(2, 1), v4(1, 1), b"to snow"));
    let initiation = node.seal(&back).remove(0).1;
    assert_eq!((initiation.len(), &initiation[..4]), (148, &[1, 0, 0, 0][..]));
    assert_eq!(initiation[116..132], mac1(&initiation[..116], &snow));
    assert_eq!(initiation[132..], [0; 16]);

    let mut noise = builder(&snow).build_responder().unwrap();
    let mut timestamp = [0; 12];
    assert_eq!(noise.read_message(&initiation[8..116], &mut timestamp).unwrap(), 12);
    assert_eq!(noise.get_remote_static().unwrap(), ours.public().as_bytes());
    assert!(timestamp > TIMESTAMP, "{timestamp:02x?} is no TAI64N of today");
    let mut inside = [0; 48];
    assert_eq!(noise.write_message(&[], &mut inside).unwrap(), inside.len());
    let response = with_macs([&[2, 0, 0, 0], &OUR_INDEX, &initiation[4..8], &inside[..]].concat(), &ours);
    let noise = noise.into_stateless_transport_mode().unwrap();

    let said = node.open(at(1), &response);
    assert_eq!(said.len(), 2);
    assert_eq!(opened(&noise, 0, &said[0].1), [0u8; 0], "a keepalive, which confirms the keys");
    assert_eq!(opened(&noise, 1, &said[1].1), padded(&back));
    assert_eq!(node.open(at(1), &data(&noise, &initiation[4..8], 7, &padded(&there))), []);
    assert_eq!(node.inner, [there]);
}

#[test]
fn a_wrong_first_mac_is_not_even_looked_into() {
    let mut node = Node::knowing(2, &[1]);
    let (one, ours) = (key(1), key(2));
    let mut noise = builder(&one).remote_public_key(ours.public().as_bytes()).unwrap().build_initiator().unwrap();
    let mut message = initiation(&mut noise, &ours);
    message[116] ^= 1;
    assert_eq!(node.open(at(1), &message), []);
    assert_eq!((node.engine.dropped().strangers, node.only_link(1).failures), (1, 0));
}

/// An initiation as bytes, so that nobody changes both implementations at once: keys 1 and 2, the ephemeral key of 32
/// times 0x33, [`TIMESTAMP`], [`OUR_INDEX`].
const VECTOR: &str = concat!(
    "01000000cafebabe",
    "7b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b14",
    "1ccd03e6c73987dc7ad58252b06ee951e1cca40b09bcfb246f04330b62b4099833b0fc784c71f0f3c82ae1ef16d9473d",
    "baa4b780cfb202c9a202d0ce36bf92c96e4414b6b20f4298272f353f",
    "9218e4507de14284e1ccd9765fbb013700000000000000000000000000000000",
);

#[test]
fn the_initiation_of_fixed_keys_is_what_it_was() {
    let (own, ours) = (key(1), key(2));
    let builder = builder(&own).fixed_ephemeral_key_for_testing_only(&[0x33; 32]);
    let mut noise = builder.remote_public_key(ours.public().as_bytes()).unwrap().build_initiator().unwrap();
    let message = initiation(&mut noise, &ours);
    let text: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, VECTOR);
    let mut node = Node::knowing(2, &[1]);
    assert_eq!(node.open(at(1), &message)[0].1.len(), 92);
    // Its time never comes again.
    assert_eq!(node.open(at(1), &message), []);
    assert_eq!(node.only_link(1).replays, 1);
}
