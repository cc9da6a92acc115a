//! The topology as a drawing in text, and as a table of cables.
//!
//! Clients stand above, switches in the middle, clusters below. Between two rows each ToR has a rail of its own, on
//! which all its cables end, and so has each link between ToRs; `●` is an end, where lines merely cross stands `┼`.

use std::fmt::Write as _;

use crate::plan::{BridgePlan, HostPlan, LinkEnd, Plan, TorPlan};
use crate::spec::Role;

/// Space between two boxes.
const GAP: usize = 2;
/// ToRs of which a row has space for both families on one line.
const WIDE_TORS: usize = 2;
/// Columns between two cables of one host.
const CABLE_STEP: usize = 4;

/// A box with its place in the row.
struct Boxed {
    left: usize,
    lines: Vec<String>,
}

impl Boxed {
    fn width(&self) -> usize {
        box_width(&self.lines)
    }
}

/// A cable's end at a box: the column, and the rail (the ToR's number).
type End = (usize, usize);

/// Boxes and cables, then ranges and every cable with its addresses.
#[must_use]
pub fn draw(plan: &Plan) -> String {
    let rail = |tor: &str| plan.tors.iter().position(|other| other.name == tor).unwrap_or(0);
    let (clients, others): (Vec<&HostPlan>, Vec<&HostPlan>) =
        plan.hosts.iter().partition(|host| host.role == Role::Client);
    let client_lines: Vec<Vec<String>> = clients.iter().map(|host| host_lines(plan, host)).collect();
    let other_lines: Vec<Vec<String>> = others.iter().map(|host| host_lines(plan, host)).collect();
    let tor_lines: Vec<Vec<String>> = plan.tors.iter().map(|tor| tor_lines(plan, tor)).collect();
    let width = [&client_lines, &tor_lines, &other_lines].map(|row| row_width(row)).into_iter().max().unwrap_or(0);
    let [client_boxes, tor_boxes, other_boxes] =
        [client_lines, tor_lines, other_lines].map(|lines| place(lines, width));

    let mut grid = Grid::default();
    let tor_ends: Vec<End> =
        tor_boxes.iter().enumerate().map(|(number, tor)| ((tor.left + tor.width() / 2) | 1, number)).collect();
    let ends = |hosts: &[&HostPlan], boxes: &[Boxed]| -> Vec<End> {
        let of = |(host, at): (&&HostPlan, &Boxed)| {
            let first = (at.left + 3) & !1;
            let cables = host.cables.iter().enumerate();
            cables.map(|(index, cable)| (first + index * CABLE_STEP, rail(&cable.tor))).collect::<Vec<_>>()
        };
        hosts.iter().zip(boxes).flat_map(of).collect()
    };
    let down = ends(&clients, &client_boxes);
    let above: Vec<End> = tor_ends.iter().filter(|end| down.iter().any(|(_, rail)| *rail == end.1)).copied().collect();
    if let Some(last) = down.iter().map(|(_, rail)| *rail).max() {
        grid.boxes(&client_boxes, &[], &down);
        grid.rails(&down, &above, last + 1);
    }
    // The links' rails come first, so that the ToRs' own ones lie below them.
    let links = plan.links.len();
    let below = |ends: Vec<End>| ends.into_iter().map(|(column, rail)| (column, rail + links)).collect::<Vec<End>>();
    let down = [below(tor_ends), link_ends(plan, &tor_boxes)].concat();
    let up = below(ends(&others, &other_boxes));
    grid.boxes(&tor_boxes, &above, &down);
    grid.rails(&down, &up, links + plan.tors.len());
    grid.boxes(&other_boxes, &up, &[]);
    let mut out = grid.text();
    clusters(&mut out, plan);
    cables(&mut out, plan);
    link_rows(&mut out, plan);
    out
}

/// Both ends of each link, at the ToRs' boxes from the left.
fn link_ends(plan: &Plan, boxes: &[Boxed]) -> Vec<End> {
    let mut ends = Vec::new();
    for (tor, at) in plan.tors.iter().zip(boxes) {
        // Even columns; the ToR's own rail hangs on an odd one.
        let first = (at.left + 3) & !1;
        let of_tor = plan.links.iter().enumerate().filter(|(_, link)| link.a.tor == tor.name || link.b.tor == tor.name);
        ends.extend(of_tor.enumerate().map(|(place, (number, _))| (first + place * CABLE_STEP, number)));
    }
    ends
}

/// What stands in a ToR's box; in a row of many, one family to a line.
fn tor_lines(plan: &Plan, tor: &TorPlan) -> Vec<String> {
    let name = format!("{}  AS {}", tor.name, tor.asn);
    let bridges = [("out", tor.out), ("rack", tor.rack)];
    if plan.tors.len() <= WIDE_TORS {
        let line = |(bridge, of): (&str, BridgePlan)| format!("{bridge:<4} {}  {}", of.v4, of.v6);
        return [name].into_iter().chain(bridges.map(line)).collect();
    }
    let used = |bridge: &str| bridge == "rack" || plan.cables_of(&tor.name).any(|(_, cable)| cable.bridge == bridge);
    let lines = |(bridge, of): (&str, BridgePlan)| {
        let place = if used(bridge) { bridge } else { "" };
        let text = |net: String| if place.is_empty() { String::new() } else { net };
        [format!("{place:<4} {}", text(of.v4.to_string())), format!("     {}", text(of.v6.to_string()))]
    };
    [name].into_iter().chain(bridges.into_iter().flat_map(lines)).collect()
}

fn host_lines(plan: &Plan, host: &HostPlan) -> Vec<String> {
    let several = plan.clusters.len() > 1;
    let what = match &host.role {
        Role::Node { cluster } if several => cluster.clone(),
        Role::ControlPlane { cluster } if several => format!("{cluster} API"),
        Role::Node { .. } => "node".into(),
        Role::ControlPlane { .. } => "API".into(),
        Role::Client => "outside".into(),
    };
    vec![format!("{}  {what}", host.name), host.loopback.v4.to_string(), host.loopback.v6.to_string()]
}

fn box_width(lines: &[String]) -> usize {
    lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 4
}

fn row_width(row: &[Vec<String>]) -> usize {
    row.iter().map(|lines| box_width(lines) + GAP).sum::<usize>().saturating_sub(GAP)
}

/// Boxes in a row, centred in `width`.
fn place(row: Vec<Vec<String>>, width: usize) -> Vec<Boxed> {
    let mut left = (width - row_width(&row)) / 2;
    let mut boxes = Vec::new();
    for lines in row {
        let next = left + box_width(&lines) + GAP;
        boxes.push(Boxed { left, lines });
        left = next;
    }
    boxes
}

/// Characters by row and column, growing downwards.
#[derive(Default)]
struct Grid {
    rows: Vec<Vec<char>>,
}

impl Grid {
    fn put(&mut self, row: usize, column: usize, c: char) {
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let line = &mut self.rows[row];
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = c;
    }

    fn get(&self, row: usize, column: usize) -> char {
        self.rows.get(row).and_then(|line| line.get(column)).copied().unwrap_or(' ')
    }

    fn words(&mut self, row: usize, column: usize, text: &str) {
        for (index, c) in text.chars().enumerate() {
            self.put(row, column + index, c);
        }
    }

    /// A row of boxes with the cables that enter above and leave below.
    fn boxes(&mut self, boxes: &[Boxed], above: &[End], below: &[End]) {
        let top = self.rows.len();
        let height = boxes.iter().map(|at| at.lines.len()).max().unwrap_or(0);
        for at in boxes {
            let inner = at.width() - 2;
            self.words(top, at.left, &format!("┌{}┐", "─".repeat(inner)));
            for index in 0..height {
                let text = at.lines.get(index).map_or("", String::as_str);
                self.words(top + 1 + index, at.left, &format!("│ {text:<pad$} │", pad = inner - 2));
            }
            self.words(top + 1 + height, at.left, &format!("└{}┘", "─".repeat(inner)));
        }
        for (column, _) in above {
            self.put(top, *column, '┴');
        }
        for (column, _) in below {
            self.put(top + 1 + height, *column, '┬');
        }
    }

    /// One rail per ToR, from the first to the last end on it, and the ends' cables to it.
    fn rails(&mut self, upper: &[End], lower: &[End], rails: usize) {
        let top = self.rows.len();
        for rail in 0..rails {
            let columns = || upper.iter().chain(lower).filter(|(_, of)| *of == rail).map(|(column, _)| *column);
            if let (Some(first), Some(last)) = (columns().min(), columns().max()) {
                for column in first..=last {
                    self.put(top + rail, column, '─');
                }
            }
        }
        let cross = |grid: &mut Self, row: usize, column: usize| {
            let c = if matches!(grid.get(row, column), '─' | '┼') { '┼' } else { '│' };
            grid.put(row, column, c);
        };
        for (column, rail) in upper {
            (0..*rail).for_each(|row| cross(self, top + row, *column));
        }
        for (column, rail) in lower {
            (rail + 1..rails).for_each(|row| cross(self, top + row, *column));
        }
        for (column, rail) in upper.iter().chain(lower) {
            self.put(top + rail, *column, '●');
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let line: String = row.iter().collect();
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

fn clusters(out: &mut String, plan: &Plan) {
    for cluster in &plan.clusters {
        let _ = writeln!(
            out,
            "cluster {}  AS {}\n  pods            {}  {}\n  services        {}  {}\n  load balancers  {}  {}",
            cluster.name,
            cluster.asn,
            cluster.pods.v4,
            cluster.pods.v6,
            cluster.services.v4,
            cluster.services.v6,
            cluster.load_balancers.v4,
            cluster.load_balancers.v6
        );
    }
}

fn cables(out: &mut String, plan: &Plan) {
    let rows: Vec<[String; 4]> = plan
        .hosts
        .iter()
        .flat_map(|host| {
            host.cables.iter().map(|cable| {
                [
                    format!("{} {}", host.name, cable.interface),
                    format!("{} {}", cable.tor, cable.bridge),
                    cable.v4.to_string(),
                    cable.v6.to_string(),
                ]
            })
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    let _ = writeln!(out, "cables");
    for [end, tor, v4, v6] in &rows {
        let _ = writeln!(out, "  {end:<a$} ── {tor:<b$}  {v4:<c$}  {v6}");
    }
}

fn link_rows(out: &mut String, plan: &Plan) {
    if plan.links.is_empty() {
        return;
    }
    let end = |end: &LinkEnd| format!("{} {} {}", end.tor, end.v4, end.v6);
    let width = plan.links.iter().map(|link| end(&link.a).len()).max().unwrap_or(0);
    let _ = writeln!(out, "links");
    for link in &plan.links {
        let _ = writeln!(out, "  {:<width$} ── {}", end(&link.a), end(&link.b));
    }
}
