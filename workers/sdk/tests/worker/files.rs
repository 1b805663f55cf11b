//! Files that a task makes, on their way out of the worker.

use rollcall_protocol::{Credit, features};

use super::*;

async fn registered(serving: &Serving) -> Server {
    let (mut server, _) = serving.connect().await;
    server.welcome(7, |answer| answer.features = vec![features::ARTIFACTS.to_owned()]).await;
    server
}

impl Server {
    async fn credit(&mut self, number: &Value, bytes: u64) {
        let number = number.as_u64().and_then(|number| number.try_into().ok()).expect("a number");
        self.say(Credit { number, bytes, ..Credit::default() }).await;
    }

    /// The next message.
    async fn any(&mut self) -> Message {
        within(self.0.next()).await.expect("it is open").expect("it is whole")
    }
}

#[tokio::test]
async fn a_result_does_not_stand_behind_the_bytes_of_a_file() {
    let worker = Worker::builder("test")
        .capability(Capability::new("make"), async |_: Task, context: TaskContext| {
            match context.artifact("a.bin", "application/x-test", vec![7; 16 << 20]).await {
                Ok(_) => TaskEnd::succeeded(&()),
                Err(error) => TaskEnd::failed(error),
            }
        })
        .capability(Capability::new("echo"), async |task: Task, _: TaskContext| {
            TaskEnd::succeeded(&task.input)
        });
    let serving = Serving::start(worker).await;
    let mut server = registered(&serving).await;
    server.execute(1, 7, "make", PATIENCE).await;
    server.frame("accepted").await;
    let announced = server.frame("artifact").await;
    server.credit(&announced["number"], 1 << 30).await;
    // Only once bytes are on their way is there something to stand behind.
    while !matches!(server.any().await, Message::Binary(_)) {}
    server.execute(2, 7, "echo", PATIENCE).await;
    let mut pieces = 0;
    loop {
        match server.any().await {
            Message::Binary(_) => pieces += 1,
            Message::Text(text) if text.contains("\"result\"") => break,
            _ => {}
        }
    }
    // What the sockets' buffers held; all of the file would be 256.
    assert!(pieces < 200, "{pieces} pieces came first");
}

#[tokio::test]
async fn a_file_goes_no_further_than_its_credit_and_is_given_up_when_nobody_waits_for_it() {
    let worker =
        Worker::builder("test").capability(Capability::new("make"), async |_: Task, context: TaskContext| {
            let file = context.artifact("a.bin", "application/x-test", vec![7; 1 << 20]);
            tokio::select! {
                sent = file => TaskEnd::succeeded(&sent.is_ok()),
                _ = context.cancelled() => TaskEnd::cancelled(),
            }
        });
    let serving = Serving::start(worker).await;
    let mut server = registered(&serving).await;
    server.execute(1, 7, "make", PATIENCE).await;
    server.frame("accepted").await;
    let announced = server.frame("artifact").await;
    server.credit(&announced["number"], 100_000).await;
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 100_000 {
        if let Message::Binary(frame) = server.any().await {
            sizes.push(frame.len() - 4);
        }
    }
    assert_eq!(sizes, [64 << 10, 100_000 - (64 << 10)]);
    server.cancel(1, "cancelled").await;
    let (mut given_up, mut ended) = (false, false);
    while !(given_up && ended) {
        match server.any().await {
            Message::Binary(frame) => {
                assert_eq!(frame.len(), 4, "a piece beyond the credit");
                given_up = true;
            }
            Message::Text(text) => ended |= text.contains("\"cancelled\""),
            _ => {}
        }
    }
}
