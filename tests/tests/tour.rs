//! Not written yet: prints so and passes no test.

fn main() {
    println!("skipped: this suite is not written yet");
}
