//! The page of the daemon, in a browser: a stretch of time is selected and its flame graph changes, names of processes stay text.

use tests::browser::Page;
use tests::workload;

use crate::api::{answering, get, port};
use crate::recording::background;

/// Fits into the name of a process, and would be an element.
const HOSTILE: &str = "<img src=x>&\"'";

/// The middle of a place on the chart, in pixels of the page: seconds since the beginning of what is shown.
fn on_chart(page: &mut Page, seconds: &str) -> (f64, f64) {
    let place = page
        .value(&format!(
            "(() => {{ const c = perfAgent.chart, b = c.canvas.getBoundingClientRect(); return [b.left + 46 + ({seconds} - c.from) / (c.to - c.from) * c.room, b.top + b.height / 2]; }})()"
        ))
        .unwrap();
    (place[0].as_f64().unwrap(), place[1].as_f64().unwrap())
}

#[test]
fn a_stretch_of_time_is_selected_and_its_flame_graph_is_shown() {
    let daemon = answering(99, "1s", "listen = \"127.0.0.1:0\"\n");
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join(HOSTILE);
    std::fs::copy(workload("cpu_split"), &hostile).unwrap();
    let has = |name: &'static str| {
        move |daemon: &crate::daemon::Daemon| {
            let series = get(daemon.folder.path(), "/api/v1/series?from=-2s&top=100").json();
            series["processes"].as_array().is_some_and(|names| names.iter().any(|found| found == name))
        }
    };
    // One after the other, so that each stretch of time has one of them.
    let first = background(&hostile, &["600"]);
    daemon.wait_for("first process", has(HOSTILE));
    std::thread::sleep(std::time::Duration::from_secs(4));
    drop(first);
    let second = background(workload("threads"), &["600"]);
    daemon.wait_for("second process", has("threads"));
    std::thread::sleep(std::time::Duration::from_secs(4));

    let mut page = Page::open(&format!("http://127.0.0.1:{}/", port(&daemon)), 1280, 900).unwrap();
    page.wait("perfAgent.state.loads > 0 && perfAgent.flame.count > 0").unwrap();
    page.value("(() => { const r = document.getElementById('range'); r.value = '300'; r.dispatchEvent(new Event('change')); })()").unwrap();
    page.wait("perfAgent.state.loads > 1 && perfAgent.state.flameLoads > 1").unwrap();

    // Text, wherever it is shown, and no element.
    let names = "[...document.querySelectorAll('#legend .name')].map(e => e.textContent)";
    let named = page.value(names).unwrap();
    assert!(named.as_array().unwrap().iter().any(|name| name == HOSTILE), "{named}");
    assert_eq!(page.value("document.querySelectorAll('img').length").unwrap(), 0);
    let roots = "JSON.stringify(perfAgent.flame.tree.nodes.filter(n => n[0] === 0).map(n => perfAgent.flame.tree.functions[n[1]][0]))";
    let both = page.value(roots).unwrap().to_string();
    assert!(both.contains("img src=x") && both.contains("threads"), "{both}");

    // A stretch in which only the first one ran.
    let index = format!("perfAgent.state.names.indexOf({})", serde_json::to_string(HOSTILE).unwrap());
    let times = page
        .value(&format!("(() => {{ const p = perfAgent.chart.points.filter(p => p.values[{index}] > 0 && !(p.values[perfAgent.state.names.indexOf('threads')] > 0)); return [p[0].start, p.at(-1).end]; }})()"))
        .unwrap();
    let before = page.value("perfAgent.state.flameLoads").unwrap();
    let (from, to) = (times[0].as_f64().unwrap(), times[1].as_f64().unwrap());
    let (from, to) = (on_chart(&mut page, &(from - 0.5).to_string()), on_chart(&mut page, &to.to_string()));
    assert!(to.0 - from.0 > 5.0, "{from:?} {to:?}");
    page.drag(from, to).unwrap();
    page.wait(&format!("perfAgent.state.selected && perfAgent.state.flameLoads > {before}")).unwrap();
    let one = page.value(roots).unwrap().to_string();
    assert!(one.contains("img src=x") && !one.contains("threads"), "{one}");
    assert!(page.value("document.getElementById('picked').textContent").unwrap().to_string().contains('–'));

    // Search, zoom by a click, and back by a key.
    page.value("(() => { const s = document.getElementById('search'); s.value = 'work_forty'; s.dispatchEvent(new Event('input')); })()").unwrap();
    let matched = page.value("parseFloat(document.getElementById('matched').textContent)").unwrap();
    assert!(matched.as_f64().unwrap() > 10.0, "{matched}");
    let place = page
        .value(&format!("(() => {{ const f = perfAgent.flame, b = f.frame.getBoundingClientRect(), all = f.tree.total; for (let i = 0; i < f.count; i++) if (f.name(i) === {} && f.tree.nodes[i][0] === 0) return [b.left + (f.x[i] + f.total(i) / 2) / all * b.width, b.top + 10]; }})()", serde_json::to_string(HOSTILE).unwrap()))
        .unwrap();
    let place = (place[0].as_f64().unwrap(), place[1].as_f64().unwrap());
    page.drag(place, place).unwrap();
    page.wait("perfAgent.flame.zoom >= 0 && !document.getElementById('reset').hidden").unwrap();
    assert!(
        page.value("document.getElementById('details').textContent")
            .unwrap()
            .to_string()
            .contains("img src=x")
    );
    page.value("document.getElementById('flame-frame').focus()").unwrap();
    page.key("Escape").unwrap();
    page.wait("perfAgent.flame.zoom < 0").unwrap();
    page.key("ArrowDown").unwrap();
    page.wait("perfAgent.flame.focus >= 0").unwrap();

    // Windows come in by themselves.
    page.value("document.getElementById('whole').click()").unwrap();
    page.wait("!perfAgent.state.selected && document.getElementById('live').textContent === 'live'").unwrap();
    let last = page.value("perfAgent.chart.points.at(-1).end").unwrap();
    page.wait(&format!("perfAgent.chart.points.at(-1).end > {last}")).unwrap();

    // One process alone.
    let loads = page.value("perfAgent.state.loads").unwrap();
    page.value("[...document.querySelectorAll('#legend button')].find(b => b.title === 'threads').click()")
        .unwrap();
    page.wait(&format!("perfAgent.state.loads > {loads} && perfAgent.state.names.length === 1")).unwrap();
    assert_eq!(page.complaints, Vec::<String>::new());
    drop(second);
}
