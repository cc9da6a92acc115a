//! DNS messages: a question's bytes to an answer's bytes. The coding is hickory's; what is answered is the zone's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Answer, CLUSTER_DOMAIN, Data, Kind, SET_DOMAIN, Zone};

/// Seconds that answers may be kept, as CoreDNS has it for Services.
const TTL_S: u32 = 5;
/// The largest UDP answer to a question without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;
/// The largest UDP answer that is ever sent, and what we say we take (DNS Flag Day 2020).
const MOST_UDP: u16 = 1232;
/// Aliases followed within our own names.
const MAX_ALIASES: usize = 8;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Answers one question. `None` where an answer would be wrong: bytes that are no message, or a response.
pub(crate) fn respond(zone: &Zone, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_) => return malformed(bytes),
    };
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MOST_UDP);
        response.set_edns(edns);
    }
    response.metadata.response_code = match request.queries.as_slice() {
        _ if request.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
        [query] if query.query_class() == DNSClass::IN => fill(zone, query, &mut response),
        [_] => ResponseCode::Refused,
        _ => ResponseCode::FormErr,
    };
    let encoded = response.to_vec().ok()?;
    let most = request.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, MOST_UDP));
    if transport == Transport::Udp && encoded.len() > usize::from(most) {
        return response.truncate().to_vec().ok();
    }
    Some(encoded)
}

/// FORMERR for what has at least an id.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    let response = bytes.get(2)? & 0x80 != 0;
    if response { None } else { Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok() }
}

fn fill(zone: &Zone, query: &Query, response: &mut Message) -> ResponseCode {
    let kind = match query.query_type() {
        RecordType::A => Kind::V4,
        RecordType::AAAA => Kind::V6,
        RecordType::SRV => Kind::Srv,
        _ => Kind::Other,
    };
    let mut owner = query.name().clone();
    let mut seen = BTreeSet::new();
    loop {
        let name = text(&owner);
        let mut found = match zone.answer(&name, kind) {
            Answer::NotOurs if seen.is_empty() => return ResponseCode::Refused,
            // An alias to somewhere else is all that we know.
            Answer::NotOurs => return ResponseCode::NoError,
            Answer::NotYet => return ResponseCode::ServFail,
            Answer::NoSuchName => {
                deny(&name, response);
                return ResponseCode::NXDomain;
            }
            Answer::Found(found) => found,
        };
        response.metadata.authoritative = true;
        spread(&mut found, response.metadata.id);
        let Some(next) = add(&owner, &found, response) else {
            if found.is_empty() {
                deny(&name, response);
            }
            return ResponseCode::NoError;
        };
        if !seen.insert(name) || seen.len() > MAX_ALIASES {
            return ResponseCode::ServFail;
        }
        owner = next;
    }
}

/// Begins somewhere else for every question, as CoreDNS' `loadbalance` does: many clients take the first address. The
/// question's id is as good as any random number.
fn spread(found: &mut [Data], id: u16) {
    if !found.is_empty() {
        let first = usize::from(id) % found.len();
        found.rotate_left(first);
    }
}

/// Lower case, no final dot.
fn text(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

/// Adds records; returns the name that an alias leads to.
fn add(owner: &Name, found: &[Data], response: &mut Message) -> Option<Name> {
    let mut next = None;
    for data in found {
        let data = match data {
            Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
            Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
            Data::Alias(alias) => {
                let Some(alias) = absolute(alias) else { continue };
                next = Some(alias.clone());
                RData::CNAME(CNAME(alias))
            }
            Data::Server { port, target } => {
                let Some(target) = absolute(target) else { continue };
                RData::SRV(SRV::new(0, 100, *port, target))
            }
        };
        response.add_answer(Record::from_rdata(owner.clone(), TTL_S, data));
    }
    next
}

/// The SOA that says how long the absence may be remembered (RFC 2308).
fn deny(name: &str, response: &mut Message) {
    response.metadata.authoritative = true;
    let domain = if name.ends_with(SET_DOMAIN) { SET_DOMAIN } else { CLUSTER_DOMAIN };
    let names = (absolute(domain), absolute(&format!("ns.dns.{domain}")), absolute(&format!("hostmaster.{domain}")));
    if let (Some(zone), Some(server), Some(mailbox)) = names {
        let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL_S);
        response.add_authority(Record::from_rdata(zone, TTL_S, RData::SOA(soa)));
    }
}

/// `None` for what cannot be a name; Kubernetes' validation lets none of these through.
fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::super::zone::{NEEDED, Service};
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone { listed: NEEDED.into_iter().collect(), ..Zone::default() };
        let mut put = |name: &str, service: Service| zone.services.insert(("shop".into(), name.into()), service);
        put("web", Service { ips: vec!["10.96.0.7".parse().unwrap()], ..Service::default() });
        let alias = |to: &str| Service { external_name: Some(to.into()), ..Service::default() };
        put("near", alias("web.shop.svc.cluster.local"));
        put("far", alias("www.example.com"));
        put("loop", alias("loop.shop.svc.cluster.local"));
        let many = (0..100u8).map(|last| IpAddr::from([10, 96, 1, last])).collect();
        put("many", Service { ips: many, ..Service::default() });
        zone
    }

    fn ask(name: &str, kind: RecordType, edns: Option<u16>, transport: Transport) -> Message {
        let mut request = Message::query();
        request.add_query(Query::query(absolute(name).unwrap(), kind));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            request.set_edns(edns);
        }
        let answer = respond(&zone(), &request.to_vec().unwrap(), transport).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, request.metadata.id);
        assert_eq!(answer.edns.is_some(), edns.is_some());
        answer
    }

    /// Response code, answers, authorities.
    fn shape(name: &str, kind: RecordType) -> (ResponseCode, usize, usize) {
        let answer = ask(name, kind, None, Transport::Udp);
        (answer.metadata.response_code, answer.answers.len(), answer.authorities.len())
    }

    #[test]
    fn codes_and_sections() {
        let (a, aaaa) = (RecordType::A, RecordType::AAAA);
        assert_eq!(shape("web.shop.svc.cluster.local", a), (ResponseCode::NoError, 1, 0));
        assert_eq!(shape("WEB.Shop.svc.cluster.local", a), (ResponseCode::NoError, 1, 0));
        assert_eq!(shape("web.shop.svc.cluster.local", aaaa), (ResponseCode::NoError, 0, 1));
        assert_eq!(shape("web.shop.svc.cluster.local", RecordType::TXT), (ResponseCode::NoError, 0, 1));
        assert_eq!(shape("none.shop.svc.cluster.local", a), (ResponseCode::NXDomain, 0, 1));
        assert_eq!(shape("near.shop.svc.cluster.local", a), (ResponseCode::NoError, 2, 0));
        assert_eq!(shape("far.shop.svc.cluster.local", a), (ResponseCode::NoError, 1, 0));
        assert_eq!(shape("loop.shop.svc.cluster.local", a).0, ResponseCode::ServFail);
        assert_eq!(shape("www.example.com", a), (ResponseCode::Refused, 0, 0));
    }

    #[test]
    fn a_large_answer_is_cut_for_udp_alone() {
        let name = "many.shop.svc.cluster.local";
        let cut = ask(name, RecordType::A, None, Transport::Udp);
        assert!(cut.metadata.truncation && cut.answers.len() < 100);
        assert!(ask(name, RecordType::A, Some(4096), Transport::Udp).metadata.truncation, "never more than {MOST_UDP}");
        let whole = ask(name, RecordType::A, None, Transport::Tcp);
        assert!(!whole.metadata.truncation && whole.answers.len() == 100);
    }

    #[test]
    fn every_address_comes_first_at_times() {
        let first = |id: u16| {
            let mut request = Message::new(id, MessageType::Query, OpCode::Query);
            request.add_query(Query::query(absolute("many.shop.svc.cluster.local").unwrap(), RecordType::A));
            let answer = respond(&zone(), &request.to_vec().unwrap(), Transport::Tcp).unwrap();
            Message::from_vec(&answer).unwrap().answers[0].data.ip_addr()
        };
        let seen: BTreeSet<_> = (0..100).map(first).collect();
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn noise() {
        assert_eq!(respond(&zone(), b"", Transport::Udp), None);
        assert_eq!(respond(&zone(), b"\x12\x34\x80", Transport::Udp), None, "a response is never answered");
        let formerr = respond(&zone(), b"\x12\x34\x00\x00\x00\x01", Transport::Udp).unwrap();
        assert_eq!(Message::from_vec(&formerr).unwrap().metadata.response_code, ResponseCode::FormErr);
    }
}
