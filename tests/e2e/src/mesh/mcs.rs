//! MCS-API (KEP-1645): a Service exported in one cluster gets an address and a name in the other.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{EAST, SOON, WEST, Who, answer_from, asker, deployed};
use crate::lab::Lab;
use crate::report::{Report, until};

const EXPORT: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: PORT, targetPort: 8080}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: shop}
"#;

const NAME: &str = "http://shop.default.svc.clusterset.local/";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-mcs")?;
    report.show("a Service exported in west is imported in east, with an address and a name", || imported(&lab));
    report.show("exported in both, both answer", || both(&lab));
    report.show("exports that disagree say so, and the oldest wins", || conflict(&lab));
    report.show("the last export goes, and the import with it", || gone(&lab));
    lab.down()
}

fn export(port: u16) -> String {
    EXPORT.replace("PORT", &port.to_string())
}

fn import(lab: &Lab, cluster: &str) -> Result<Value> {
    lab.cluster(cluster).json(&["get", "serviceimport", "shop"])
}

fn condition(lab: &Lab, cluster: &str, kind: &str) -> Result<Value> {
    let json = lab.cluster(cluster).json(&["get", "serviceexport", "shop"])?;
    let all = json["status"]["conditions"].as_array().with_context(|| format!("no conditions: {json}"))?;
    all.iter().find(|c| c["type"] == kind).cloned().with_context(|| format!("no condition {kind}: {json}"))
}

fn imported(lab: &Lab) -> Result<String> {
    lab.cluster(WEST).apply(&export(80))?;
    let (ip, took) = until(SOON, "east has a ServiceImport with an address", || {
        let json = import(lab, EAST)?;
        ensure!(json["spec"]["type"] == "ClusterSetIP", "{json}");
        let ip = json["spec"]["ips"][0].as_str().filter(|ip| !ip.is_empty()).context("no address yet")?;
        Ok(ip.to_owned())
    })?;
    until(SOON, "the export is valid", || {
        let valid = condition(lab, WEST, "Valid")?;
        ensure!(valid["status"] == "True", "{valid}");
        Ok(())
    })?;
    let ((_, west), _) = answer_from(lab, &asker(EAST), NAME, Who::West)?;
    Ok(format!("{ip} after {:.1} s; {west} answers of west by {NAME}", took.as_secs_f64()))
}

fn both(lab: &Lab) -> Result<String> {
    lab.cluster(EAST).apply(&export(80))?;
    let ((east, west), took) = answer_from(lab, &asker(EAST), NAME, Who::Both)?;
    answer_from(lab, &asker(WEST), NAME, Who::Both)?;
    Ok(format!("{east} of east, {west} of west, after {:.1} s", took.as_secs_f64()))
}

fn conflict(lab: &Lab) -> Result<String> {
    lab.cluster(EAST).run(&["delete", "service", "shop"])?;
    lab.cluster(EAST).apply(&export(81))?;
    let (message, took) = until(SOON, "both exports tell of the conflict", || {
        let told = condition(lab, WEST, "Conflict")?;
        ensure!(told["status"] == "True", "{told}");
        let there = condition(lab, EAST, "Conflict")?;
        ensure!(there["status"] == "True", "{there}");
        Ok(told["message"].as_str().unwrap_or_default().to_owned())
    })?;
    let json = import(lab, EAST)?;
    let ports: Vec<u64> =
        json["spec"]["ports"].as_array().into_iter().flatten().filter_map(|p| p["port"].as_u64()).collect();
    ensure!(ports.contains(&80), "the oldest export has port 80, the import has {ports:?}");
    Ok(format!("after {:.1} s: {message:?}", took.as_secs_f64()))
}

fn gone(lab: &Lab) -> Result<String> {
    for cluster in [EAST, WEST] {
        lab.cluster(cluster).run(&["delete", "serviceexport", "shop"])?;
    }
    let (_, took) = until(SOON, "the imports and derived Services are gone", || {
        for cluster in [EAST, WEST] {
            let imports = lab.cluster(cluster).json(&["get", "serviceimports", "-A"])?;
            ensure!(imports["items"].as_array().is_some_and(Vec::is_empty), "{cluster} still has {imports}");
            let services = lab.cluster(cluster).run(&["get", "services", "-o", "name"])?;
            ensure!(!services.contains("derived-"), "{cluster} still has {services}");
        }
        Ok(())
    })?;
    Ok(format!("after {:.1} s", took.as_secs_f64()))
}
