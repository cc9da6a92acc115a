//! Services: families, cluster IPs, node ports, traffic policies. And EndpointSlices.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses::{Claim, Family, ips_of, ports_of};
use super::pod::port_in_range;
use crate::api::Api;
use crate::kinds::Resource;
use crate::schema::check::FieldError;
use crate::status::{ApiError, ApiResult};

/// An EndpointSlice holds no more, in the real API too.
const MAX_ENDPOINTS: usize = 1000;

fn kind(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("ClusterIP")
}

fn is_external(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None"
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_owned())).collect()
}

fn remove(spec: &mut Value, name: &str) {
    spec.as_object_mut().and_then(|s| s.shift_remove(name));
}

/// A writer that leaves out what was allocated wants to keep it.
pub(super) fn before_update(old: &Value, new: &mut Value) {
    let (old, spec) = (&old["spec"], &mut new["spec"]);
    if !spec.is_object() {
        return;
    }
    if kind(spec) == "ExternalName" {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            remove(spec, name);
        }
        return;
    }
    let absent = |spec: &Value, name: &str| {
        spec[name].as_str().unwrap_or_default().is_empty() && spec[name].as_array().is_none_or(Vec::is_empty)
    };
    if absent(spec, "clusterIP") && absent(spec, "clusterIPs") && kind(old) != "ExternalName" {
        spec["clusterIP"] = old["clusterIP"].clone();
        spec["clusterIPs"] = old["clusterIPs"].clone();
    }
    for name in ["ipFamilies", "ipFamilyPolicy"] {
        if absent(spec, name) && old[name] != Value::Null {
            spec[name] = old[name].clone();
        }
    }
    if is_external(spec) && is_external(old) {
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            let same = |p: &&Value| {
                p["port"] == port["port"] && (p["protocol"] == port["protocol"] || port["protocol"].is_null())
            };
            if port.get("nodePort").is_none()
                && let Some(before) = old["ports"].as_array().into_iter().flatten().find(same)
                && before["nodePort"].is_u64()
            {
                port["nodePort"] = before["nodePort"].clone();
            }
        }
        if spec.get("healthCheckNodePort").is_none() && old["healthCheckNodePort"].is_u64() {
            spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
        }
    } else if !is_external(spec) && is_external(old) {
        for port in spec["ports"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            port.shift_remove("nodePort");
        }
    }
}

pub(super) fn default(api: &Api, value: &mut Value, existing: Option<&Value>) -> ApiResult<()> {
    let spec = &mut value["spec"];
    if !spec.is_object() {
        return Ok(());
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port.get("targetPort").is_none_or(|t| *t == 0 || *t == "") {
            port["targetPort"] = port["port"].clone();
        }
    }
    match spec["sessionAffinity"].as_str() {
        Some("ClientIP") if spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() => {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
        }
        Some("None") => remove(spec, "sessionAffinityConfig"),
        _ => {}
    }
    if kind(spec) == "ExternalName" {
        return Ok(());
    }
    if spec.get("internalTrafficPolicy").is_none() {
        spec["internalTrafficPolicy"] = "Cluster".into();
    }
    let external = is_external(spec) || spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    if !external {
        remove(spec, "externalTrafficPolicy");
    } else if spec.get("externalTrafficPolicy").is_none() {
        spec["externalTrafficPolicy"] = "Cluster".into();
    }
    if kind(spec) != "LoadBalancer" {
        remove(spec, "allocateLoadBalancerNodePorts");
        remove(spec, "loadBalancerClass");
    } else if spec.get("allocateLoadBalancerNodePorts").is_none() {
        spec["allocateLoadBalancerNodePorts"] = true.into();
    }
    if !(kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local") {
        remove(spec, "healthCheckNodePort");
    }
    default_families(api, spec, existing);
    Ok(())
}

fn default_families(api: &Api, spec: &mut Value, existing: Option<&Value>) {
    let cluster = api.addresses.families();
    let mut ips = strings(&spec["clusterIPs"]);
    match spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()) {
        // A changed clusterIP counts; validation refuses the change where it must.
        Some(ip) if ips.first().is_none_or(|first| first != ip) => {
            let replaces = existing.is_some_and(|old| old["spec"]["clusterIP"] != ip);
            ips = if ips.is_empty() || replaces { vec![ip.to_owned()] } else { ips };
        }
        _ => {}
    }
    let mut families: Vec<Family> =
        strings(&spec["ipFamilies"]).iter().filter_map(|name| Family::parse(name)).collect();
    for (i, ip) in ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).enumerate() {
        if families.len() <= i {
            families.push(Family::of(&ip));
        }
    }
    if families.is_empty() {
        families.extend(cluster.first());
    }
    let headless_manual = is_headless(spec) && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = match spec["ipFamilyPolicy"].as_str() {
        Some(policy) => policy.to_owned(),
        None if headless_manual || families.len() > 1 => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    if policy == "SingleStack" {
        families.truncate(1);
        ips.truncate(1);
    } else if families.len() == 1 {
        families.extend(cluster.iter().filter(|f| **f != families[0]).take(1).copied().collect::<Vec<_>>());
    }
    spec["ipFamilyPolicy"] = policy.into();
    spec["ipFamilies"] = families.iter().map(|f| f.name()).collect::<Vec<_>>().into();
    if ips.is_empty() {
        remove(spec, "clusterIPs");
        remove(spec, "clusterIP");
    } else {
        spec["clusterIP"] = ips[0].clone().into();
        spec["clusterIPs"] = ips.into();
    }
}

pub(super) fn validate(service: &Value, existing: Option<&Value>) -> Vec<FieldError> {
    let spec = &service["spec"];
    let mut errors = Vec::new();
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind(spec) != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind(spec) == "ExternalName" && spec["externalName"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        errors.extend(port_in_range(&port["port"], format!("{path}.port")));
        if port["targetPort"].is_number() {
            errors.extend(port_in_range(&port["targetPort"], format!("{path}.targetPort")));
        }
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        if !name.is_empty() && ports[..i].iter().any(|other| other["name"] == name) {
            errors.push(FieldError {
                path: format!("{path}.name"),
                problem: crate::schema::check::Problem::Duplicate(name.into()),
            });
        }
    }
    if let Some(old) = existing.map(|old| &old["spec"])
        && kind(old) != "ExternalName"
        && kind(spec) != "ExternalName"
        && old["clusterIP"].is_string()
        && old["clusterIP"] != spec["clusterIP"]
    {
        let found = strings(&spec["clusterIPs"]);
        errors.push(FieldError::invalid("spec.clusterIPs[0]", json!(found), "may not change once set"));
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" && strings(&spec["ipFamilies"]).len() < 2 {
        errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        ));
    }
    errors
}

pub(super) fn claim<'a>(
    api: &'a Api,
    resource: &Resource,
    value: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> ApiResult<Claim<'a>> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut claim = Claim::nothing(&api.addresses);
    let (had_ips, had_ports) = old.map(|old| (ips_of(old), ports_of(old))).unwrap_or_default();
    let refuse = |error: Box<FieldError>| ApiError::invalid(resource, &name, &[*error]);
    if kind(&value["spec"]) != "ExternalName" && !is_headless(&value["spec"]) {
        claim_ips(&mut claim, &mut value["spec"], &had_ips).map_err(refuse)?;
    }
    claim_ports(&mut claim, &mut value["spec"], &had_ports).map_err(refuse)?;
    let (ips, ports) = (ips_of(value), ports_of(value));
    if !dry_run {
        claim.leave(
            had_ips.into_iter().filter(|ip| !ips.contains(ip)).collect(),
            had_ports.into_iter().filter(|port| !ports.contains(port)).collect(),
        );
    }
    Ok(claim)
}

fn claim_ips(claim: &mut Claim<'_>, spec: &mut Value, had: &[IpAddr]) -> Result<(), Box<FieldError>> {
    let families: Vec<Family> = strings(&spec["ipFamilies"]).iter().filter_map(|name| Family::parse(name)).collect();
    let mut ips = strings(&spec["clusterIPs"]);
    for (i, text) in ips.iter().enumerate() {
        let path = format!("spec.clusterIPs[{i}]");
        let ip: IpAddr = text.parse().map_err(|_| {
            FieldError::invalid(&path, text.as_str(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        })?;
        if !had.contains(&ip) {
            claim.ip(ip).map_err(|why| Box::new(FieldError::invalid("spec.clusterIPs", json!([text]), why)))?;
        }
    }
    for family in families.into_iter().skip(ips.len()) {
        let ip =
            claim.free_ip(family).map_err(|why| Box::new(FieldError::invalid("spec.clusterIPs", Value::Null, why)))?;
        ips.push(ip.to_string());
    }
    if let Some(first) = ips.first() {
        spec["clusterIP"] = first.clone().into();
        spec["clusterIPs"] = ips.into();
    }
    Ok(())
}

fn claim_ports(claim: &mut Claim<'_>, spec: &mut Value, had: &[(u16, String)]) -> Result<(), Box<FieldError>> {
    let wants =
        kind(spec) == "NodePort" || (kind(spec) == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false);
    let number = |value: &Value| value.as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let path = format!("spec.ports[{i}].nodePort");
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        match number(&port["nodePort"]) {
            0 if wants => {
                let free = claim.free_port(&protocol).map_err(|why| Box::new(FieldError::invalid(&path, 0, why)))?;
                port["nodePort"] = free.into();
            }
            0 => {
                port.as_object_mut().and_then(|p| p.shift_remove("nodePort"));
            }
            given if had.contains(&(given, protocol.clone())) => {}
            given => claim.port(given, &protocol).map_err(|why| Box::new(FieldError::invalid(&path, given, why)))?,
        }
    }
    if kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local" {
        match number(&spec["healthCheckNodePort"]) {
            0 => {
                let free = claim
                    .free_port("TCP")
                    .map_err(|why| Box::new(FieldError::invalid("spec.healthCheckNodePort", 0, why)))?;
                spec["healthCheckNodePort"] = free.into();
            }
            given if had.contains(&(given, "TCP".to_owned())) => {}
            given => {
                claim
                    .port(given, "TCP")
                    .map_err(|why| Box::new(FieldError::invalid("spec.healthCheckNodePort", given, why)))?;
            }
        }
    }
    Ok(())
}

pub(super) fn validate_slice(slice: &Value, existing: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = slice["addressType"].as_str().unwrap_or_default();
    if existing.is_some_and(|old| old["addressType"] != kind) {
        errors.push(FieldError::invalid("addressType", kind, "field is immutable"));
    }
    let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::invalid(
            "endpoints",
            endpoints.len(),
            format!("must have at most {MAX_ENDPOINTS} items"),
        ));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        for (n, address) in strings(&endpoint["addresses"]).iter().enumerate() {
            let fits = match kind {
                "IPv4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !fits {
                let why = format!("must be a valid {kind} address");
                errors.push(FieldError::invalid(format!("endpoints[{i}].addresses[{n}]"), address.as_str(), why));
            }
        }
    }
    errors
}
