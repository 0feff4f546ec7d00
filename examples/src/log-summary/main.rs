//! Log-summary counts what a batch of log lines says: lines by level, the messages that come most
//! often (with their numbers and ids taken out, so that equal ones meet), and the percentiles of
//! the durations in them. Config: {"top": 3, "ignore": ["DEBUG"]}; data: {"lines": ["...", ...]}.

mod json;

use json::{quoted, Json};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
const UNITS: [(&str, f64); 6] =
    [("ns", 1e-6), ("us", 1e-3), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)];

struct Config {
    top: usize,
    ignore: Vec<String>,
}

#[derive(Default)]
struct Summary {
    lines: usize,
    levels: BTreeMap<String, usize>,
    messages: HashMap<String, usize>,
    durations_ms: Vec<f64>,
}

fn main() {
    match run() {
        Ok(result) => println!("{}", result),
        Err(message) => {
            eprintln!("log-summary: {}", message);
            std::process::exit(2);
        }
    }
}

fn run() -> Result<String, String> {
    let config = config(&std::env::var("SLUICE_CONFIG").unwrap_or_default())?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| format!("the event: {}", e))?;
    let event = Json::parse(&text).map_err(|e| format!("the event: {}", e))?;
    let mut summary = Summary::default();
    for line in lines(&event)? {
        summary.add(line, &config.ignore);
    }
    eprintln!("{} lines, {} durations", summary.lines, summary.durations_ms.len());
    Ok(summary.render(config.top))
}

fn config(text: &str) -> Result<Config, String> {
    let mut config = Config { top: 5, ignore: Vec::new() };
    if text.is_empty() {
        return Ok(config);
    }
    let value = Json::parse(text).map_err(|e| format!("the config: {}", e))?;
    match value.get("top") {
        None => {}
        Some(Json::Number(n)) if *n >= 0.0 && *n <= 100.0 => config.top = *n as usize,
        Some(_) => return Err("the config's \"top\" is no number from 0 to 100".into()),
    }
    if let Some(ignore) = value.get("ignore") {
        config.ignore = strings(ignore)
            .ok_or("the config's \"ignore\" is no list of levels")?
            .into_iter()
            .map(str::to_uppercase)
            .collect();
    }
    Ok(config)
}

fn lines(event: &Json) -> Result<Vec<&str>, String> {
    let found = event.get("data").and_then(|data| data.get("lines"));
    found.and_then(strings).ok_or_else(|| {
        "the event's data needs lines, such as {\"lines\": [\"INFO started\"]}".into()
    })
}

fn strings(value: &Json) -> Option<Vec<&str>> {
    let text = |element| match element {
        &Json::String(ref text) => Some(text.as_str()),
        _ => None,
    };
    match value {
        Json::Array(elements) => elements.iter().map(text).collect(),
        _ => None,
    }
}

impl Summary {
    fn add(&mut self, line: &str, ignore: &[String]) {
        let level = level(line);
        if line.trim().is_empty() || ignore.iter().any(|i| i == level) {
            return;
        }
        self.lines += 1;
        *self.levels.entry(level.to_string()).or_default() += 1;
        *self.messages.entry(shape(line)).or_default() += 1;
        self.durations_ms.extend(line.split_whitespace().filter_map(duration_ms));
    }

    fn render(&self, top: usize) -> String {
        let levels: Vec<String> =
            self.levels.iter().map(|(level, n)| format!("{}:{}", quoted(level), n)).collect();
        format!(
            "{{\"lines\":{},\"levels\":{{{}}},\"top\":[{}],\"duration_ms\":{}}}",
            self.lines,
            levels.join(","),
            self.top(top).join(","),
            self.percentiles()
        )
    }

    fn top(&self, count: usize) -> Vec<String> {
        let mut messages: Vec<(&String, &usize)> = self.messages.iter().collect();
        messages.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        messages.truncate(count);
        let row = |(text, n): (&String, &usize)| {
            format!("{{\"count\":{},\"message\":{}}}", n, quoted(text))
        };
        messages.into_iter().map(row).collect()
    }

    fn percentiles(&self) -> String {
        let mut sorted = self.durations_ms.clone();
        if sorted.is_empty() {
            return "null".into();
        }
        sorted.sort_by(f64::total_cmp);
        // Nearest rank: always a duration that was really there.
        let rank = |p: f64| sorted[((p / 100.0 * sorted.len() as f64).ceil() as usize).max(1) - 1];
        let (p50, p90, p99, max) = (rank(50.0), rank(90.0), rank(99.0), rank(100.0));
        let count = sorted.len();
        format!("{{\"count\":{count},\"p50\":{p50},\"p90\":{p90},\"p99\":{p99},\"max\":{max}}}")
    }
}

/// The first level in a line, bare (`WARN`), in brackets, or as `level=warn`; OTHER without one.
fn level(line: &str) -> &'static str {
    for word in line.split_whitespace() {
        let word = word.strip_prefix("level=").unwrap_or(word);
        let word = word.trim_matches(|c: char| !c.is_ascii_alphabetic()).to_ascii_uppercase();
        let word = if word == "WARNING" { "WARN" } else { word.as_str() };
        if let Some(level) = LEVELS.into_iter().find(|level| *level == word) {
            return level;
        }
    }
    "OTHER"
}

/// The message behind the level, with every word that holds a digit made a `#`.
fn shape(line: &str) -> String {
    let level = level(line);
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let Some(at) = words.iter().position(|word| self::level(word) == level && level != "OTHER") {
        words.drain(..=at);
    }
    let numbered = |text: &str| text.contains(|c: char| c.is_ascii_digit());
    let plain = |word: &&str| match word.split_once('=') {
        Some((name, value)) if numbered(value) => format!("{}=#", name),
        None if numbered(word) => "#".to_string(),
        _ => word.to_string(),
    };
    words.iter().map(plain).collect::<Vec<_>>().join(" ")
}

/// The milliseconds of a word such as `12ms`, `took=1.5s` or `(3µs)`.
fn duration_ms(word: &str) -> Option<f64> {
    let word = word.rsplit('=').next()?.trim_matches(|c| "(),;\"".contains(c));
    let begin = word.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = word.split_at(begin);
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let value = number.parse::<f64>().ok()? * factor;
    Some((value * 1e6).round() / 1e6) // to the nanosecond: 0.1 s is 100 ms, not 100.00000000000001
}
