//! `strata-e2e-tty`: types lines into a program on a terminal, and shows what comes of it.

use clap::Parser;
use std::io::Write as _;
use std::process::{Command, ExitCode};
use strata_e2e::Result;
use strata_e2e::pty::Session;

/// Runs a program on a terminal of its own and types a line at every prompt.
#[derive(Parser)]
#[command(name = "strata-e2e-tty")]
struct Args {
    /// What the program shows when it waits for the next line.
    #[arg(long, default_value = "# ")]
    prompt: String,
    /// A line to type; may be given again.
    #[arg(long = "type", value_name = "LINE")]
    lines: Vec<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut command = Command::new(&args.program[0]);
    command.args(&args.program[1..]);
    let mut session = Session::start(&command)?;
    let mut shown = 0;
    for line in &args.lines {
        let text = session.expect(&args.prompt);
        shown += text.len();
        show(&text);
        std::io::stdout().flush()?;
        session.send(&format!("{line}\n"));
    }
    let status = session.wait();
    show(session.output().get(shown..).unwrap_or_default());
    std::io::stdout().flush()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Without the marks by which a shell tells a terminal where pasted text begins: they show where there is no terminal.
fn show(text: &str) {
    print!("{}", text.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "").replace('\r', ""));
}
