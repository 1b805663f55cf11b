//! The status board in a real browser: what it shows, that it lives, and who can use it.

use hyper::Method;
use rollcall::client::Request;
use serde_json::json;

use crate::support::browser::Page;
use crate::support::{Server, eventually, python};

/// Two kinds of work that goes well, and one that nobody can do.
const FLEET: &str = "
heartbeat: { interval: 1s }
workers:
  - { name: echo, interface: mock, capabilities: [text.echo], slots: 2, mock: { latency: 5ms } }
  - { name: failing, interface: mock, capabilities: [text.fail], slots: 2, mock: { latency: 5ms, failure_rate: 1 } }
  - { name: slow, interface: mock, capabilities: [text.slow], slots: 1, mock: { latency: 60s } }
  - { name: away, interface: websocket, capabilities: [\"browser.*\"] }
";

async fn board(server: &Server) -> Page {
    let mut page = Page::open(&format!("{}/", server.base_url())).await;
    page.until("document.getElementById('live')?.textContent === 'live'").await;
    page
}

/// Whether a table has a row that begins with one text and has another one in it.
fn row_says(table: &str, first: &str, text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#{table} tbody tr')]\
         .find((it) => it.innerText.startsWith('{first}'))?.innerText.includes('{text}')"
    )
}

#[tokio::test]
async fn the_board_shows_the_fleet_and_what_needs_a_look() {
    let server = Server::start(FLEET);
    server.worker_is("slow", "ready").await;
    server.run("text.echo", json!("hello")).await;
    server.submit("browser.open", json!({})).await;
    for _ in 0..2 {
        server.submit("text.slow", json!({})).await;
    }
    let mut page = board(&server).await;
    // States are words, with a shape before them: colour alone says nothing.
    page.until(&row_says("workers", "echo", "ready")).await;
    page.until(&row_says("workers", "away", "disconnected")).await;
    let shape = "getComputedStyle(document.querySelector('#workers .word.bad'), '::before').content";
    assert_eq!(page.eval(shape).await, "\"■ \"");
    page.until(&row_says("workers", "slow", "1 of 1")).await;
    // Why tasks wait, and the shortest fix.
    page.until(&row_says("queues", "text.slow", "Shortest fix")).await;
    page.shows("1 task needs browser.open, and no connected worker offers it").await;
    let runbook = "document.querySelector('#conditions a').getAttribute('href')";
    assert_eq!(page.eval(runbook).await, "/runbooks/RollcallNoWorkerForCapability");
    let follow = Request::new(Method::GET, "/runbooks/RollcallNoWorkerForCapability");
    assert_eq!(server.send(follow).await.status, 200, "the link leads somewhere");
    assert_eq!(page.eval("document.title").await, "(1) Rollcall");
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn the_board_lives_and_tells_what_a_reload_changed_or_why_it_did_not() {
    let server = Server::start(FLEET);
    let mut page = board(&server).await;
    server.run("text.echo", json!("hello")).await;
    page.until(&row_says("queues", "text.echo", "1")).await;
    page.shows("succeeded").await;

    let file = server.config_file();
    let more = format!("{FLEET}  - {{ name: newcomer, interface: mock, capabilities: [text.new] }}\n");
    std::fs::write(&file, more).expect("a file can be written");
    page.shows("generation 2: +newcomer, 4 unchanged").await;
    page.until(&row_says("workers", "newcomer", "ready")).await;

    std::fs::write(&file, "workers: 7\n").expect("a file can be written");
    page.shows("config.yaml was not taken; generation 2 stays in force.").await;
    page.until("document.querySelector('#conditions pre').innerText.includes('config.yaml:1:10')").await;
    page.until("document.querySelector('#reloads li').innerText.includes('invalid')").await;
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_task_is_opened_by_keyboard_and_keeps_the_focus_while_the_board_lives() {
    let server = Server::start(FLEET);
    let task = server.submit_as(json!({"capability": "text.fail", "max_attempts": 2})).await;
    server.task_is(&task, "failed").await;
    let mut page = board(&server).await;
    page.until("document.querySelector('#tasks button')").await;
    for _ in 0..40 {
        page.press("Tab").await;
        if page.eval("Boolean(document.activeElement.closest('#tasks td'))").await == true {
            break;
        }
    }
    let expanded = "document.activeElement.getAttribute('aria-expanded')";
    assert_eq!(page.eval(expanded).await, "false", "a task's button has the focus");
    let ring = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(page.eval(ring).await, "solid", "and it is seen");
    page.press("Enter").await;
    page.until("document.querySelectorAll('.timeline li').length >= 4").await;
    page.shows("attempt 2 on failing: failed").await;
    // Others come meanwhile; the button keeps its focus, and the task stays open.
    for _ in 0..25 {
        server.run("text.echo", json!("hello")).await;
    }
    page.until(&row_says("queues", "text.echo", "25")).await;
    page.until("document.querySelectorAll('#tasks tbody tr').length > 20").await;
    assert_eq!(page.eval(expanded).await, "true");
    page.press("Enter").await;
    page.until("!document.querySelector('.detail')").await;
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn output_arrives_while_a_task_runs_and_a_pause_holds_the_board_still() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("counter.py");
    let code = "from rollcall_worker import Worker\n\
                worker = Worker('counter')\n\
                @worker.capability('count.up')\n\
                def count(task):\n    \
                    number = 0\n    \
                    while not task.wait_cancelled(0.02):\n        \
                        number += 1\n        \
                        print('step', number, file=task.stdout)\n\
                worker.main()\n";
    std::fs::write(&file, code).expect("a file can be written");
    let fleet = format!("{FLEET}  - {{ name: counter, interface: websocket }}\n");
    let server = Server::start(&fleet);
    let url = server.base_url().replace("http://", "ws://");
    let _worker = python::Program::start(&file, &["--connect", &url, "--name", "counter"]);
    server.worker_is("counter", "ready").await;
    server.submit("count.up", json!({})).await;
    let mut page = board(&server).await;
    page.until("document.querySelector('#tasks button')").await;
    page.eval("document.querySelector('#tasks button').click()").await;
    page.shows("step 3\n").await;
    page.shows("step 60\n").await;

    page.eval("document.getElementById('pause').click()").await;
    page.until("paused && !busy && !planned").await;
    let before = page.eval("document.querySelector('main').innerText").await;
    for _ in 0..3 {
        server.run("text.echo", json!("hello")).await;
    }
    assert_eq!(page.eval("document.querySelector('main').innerText").await, before);
    page.eval("document.getElementById('pause').click()").await;
    page.until(&row_says("queues", "text.echo", "3")).await;
    drop(server);
    page.until("document.getElementById('live').innerText.startsWith('not reachable')").await;
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn hostile_text_is_shown_and_never_becomes_markup() {
    const EVIL: &str = "</td><img src=x onerror='window.owned=1'><script>window.owned=1</script>";
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("evil.py");
    let code = format!(
        "from rollcall_worker import TaskError, Worker\n\
         EVIL = {EVIL:?}\n\
         worker = Worker(EVIL, version=EVIL)\n\
         @worker.capability('evil.do', description=EVIL)\n\
         async def do(task):\n    \
             task.stdout.write(EVIL + ' said')\n    \
             await task.artifact(EVIL, EVIL)\n    \
             raise TaskError(EVIL[:20], EVIL + ' happened')\n\
         worker.main()\n"
    );
    std::fs::write(&file, code).expect("a file can be written");
    let server = Server::start("workers:\n  - { name: evil, interface: websocket }\n");
    let url = server.base_url().replace("http://", "ws://");
    let _worker = python::Program::start(&file, &["--connect", &url, "--name", "evil"]);
    server.worker_is("evil", "ready").await;
    server.run("evil.do", json!({ EVIL: EVIL })).await;
    let mut page = board(&server).await;
    page.until("document.querySelector('#tasks button')").await;
    page.eval("document.querySelector('#tasks button').click()").await;
    page.shows(&format!("{EVIL} said")).await;
    page.shows(&format!("{EVIL} happened")).await;
    page.until(&row_says("workers", "evil", "<img")).await;
    assert_eq!(page.eval("window.owned ?? null").await, json!(null));
    assert_eq!(page.eval("document.querySelectorAll('img, script:not([nonce])').length").await, 0);
    assert_eq!(page.complaints(), [""; 0], "nor did it try to break the policy");
}

/// The least contrast between a text and what is behind it, among all texts that are shown.
const LEAST_CONTRAST: &str = "(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((it) => it / 255)
    .map((it) => (it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4))
    .reduce((sum, it, which) => sum + it * [0.2126, 0.7152, 0.0722][which], 0);
  const behind = (it) => {
    const color = getComputedStyle(it).backgroundColor;
    return channels(color)[3] === 0 && it.parentElement ? behind(it.parentElement) : color;
  };
  const texts = [...document.querySelectorAll('body *')]
    .filter((it) => it.checkVisibility() && [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  const contrasts = texts.map((it) => {
    const [a, b] = [light(getComputedStyle(it).color), light(behind(it))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
  return contrasts.length > 30 ? Math.min(...contrasts) : 0;
})()";

#[tokio::test]
async fn the_board_can_be_read_in_light_in_the_dark_and_on_a_phone() {
    let server = Server::start(FLEET);
    server.worker_is("slow", "ready").await;
    let failed = server.submit_as(json!({"capability": "text.fail", "max_attempts": 2})).await;
    server.task_is(&failed, "failed").await;
    server.run("text.echo", json!("hello")).await;
    server.submit("browser.open", json!({})).await;
    let mut page = board(&server).await;
    page.until("document.querySelector('#tasks button')").await;
    page.eval("document.querySelector('#tasks button').click()").await;
    page.until("document.querySelector('.timeline li')").await;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [1280, 360] {
            page.looks(width, 800, scheme).await;
            let contrast = page.eval(LEAST_CONTRAST).await.as_f64().expect("a number");
            assert!(contrast >= 4.5, "{contrast} in {scheme} at {width}");
            let wide = page.eval("document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().is_some_and(|wide| wide <= width.into()), "{wide} of {width} pixels");
            // Nothing of a table is beyond the edge of its sheet.
            let beyond = "[...document.querySelectorAll('.sheet')].filter((it) => it.scrollWidth > it.clientWidth + 1).length";
            assert_eq!(page.eval(beyond).await, 0, "in {scheme} at {width}");
        }
        grounds.push(page.eval("getComputedStyle(document.body).backgroundColor").await);
    }
    assert_ne!(grounds[0], grounds[1]);
    // Fingers are not pointers.
    let small = "[...document.querySelectorAll('button')].filter((it) => it.checkVisibility() && it.offsetHeight < 32).length";
    assert_eq!(page.eval(small).await, 0);
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn of_ten_thousand_workers_it_shows_a_page_and_those_that_need_a_look_first() {
    let mut config = String::from("workers:\n");
    for number in 0..10_000 {
        let kind = match number % 100 {
            7 => "interface: websocket",
            _ => "interface: mock",
        };
        config.push_str(&format!(
            "  - {{ name: w{number:05}, {kind}, capabilities: [text.echo], slots: 2 }}\n"
        ));
    }
    let server = Server::start(&config);
    let status = eventually("the mocks are ready", async || {
        let status = server.get("/v1/status").await;
        if status["workers"]["ready"] == 9_900 { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status["workers"]["disconnected"], 100);
    let mut page = board(&server).await;
    page.shows("disconnected 100").await;
    page.until("document.querySelectorAll('#workers tbody tr').length === 50").await;
    page.shows("page 1: w00007 to w04907").await;
    page.eval("document.getElementById('workers-on').click()").await;
    page.shows("page 2: w05007 to w09907").await;
    // A name leads to one of the ten thousand.
    page.eval("[...document.querySelectorAll('#worker-states button')].find((it) => it.innerText.startsWith('all')).click()")
        .await;
    let typed = "(() => { const box = document.getElementById('worker-name'); box.value = '4242'; \
                 box.dispatchEvent(new Event('input')); })()";
    page.eval(typed).await;
    page.until(&row_says("workers", "w04242", "ready")).await;
    page.until("document.querySelectorAll('#workers tbody tr').length === 1").await;
    assert_eq!(page.complaints(), [""; 0]);
}

#[tokio::test]
async fn the_list_of_workers_comes_in_pages_of_those_asked_for() {
    let server = Server::start(FLEET);
    server.worker_is("slow", "ready").await;
    let names = async |query: &str| {
        let page = server.get(&format!("/v1/workers?{query}")).await;
        let items = page["items"].as_array().expect("a list").clone();
        let names: Vec<_> = items.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect();
        (names.join(" "), page["next_cursor"].clone())
    };
    assert_eq!(names("").await, ("away echo failing slow".to_owned(), json!(null)));
    assert_eq!(names("limit=3").await, ("away echo failing".to_owned(), json!("failing")));
    assert_eq!(names("limit=3&cursor=failing").await, ("slow".to_owned(), json!(null)));
    assert_eq!(names("state=ready,suspect&name=l").await, ("failing slow".to_owned(), json!(null)));
    assert_eq!(names("pool=none").await, (String::new(), json!(null)));
    for wrong in ["state=busy", "limit=0", "limit=1001", "limit=x", "stat=ready"] {
        let request = Request::new(Method::GET, format!("/v1/workers?{wrong}"));
        assert_eq!(server.send(request).await.status, 422, "{wrong}");
    }
    server.run("text.echo", json!("hello")).await;
    let outline = server.get("/v1/tasks?output=false").await;
    assert_eq!(outline["items"][0].get("output"), None, "{outline}");
}
