//! What databases are asked to do, and what must be true of them at any instant.
//!
//! Accounts with balances, and a history of transfers between them. A transaction takes an amount from one account,
//! gives it to another and writes that down. Whatever instant a database is recovered to, each client's transfers are
//! there up to some number without a gap, every balance is what the transfers make it, and the sum of all is what it
//! was. How many transfers there are is bounded on both sides: those that were acknowledged before the snapshot was
//! asked for are durable, and those that were begun after it was taken are of the future.
//!
//! What is not checked here: whether the database's own structures are sound. Its own tools say that.

use std::ops::RangeInclusive;

use cowbird_proto::rng::Rng;

/// Accounts; each takes about a quarter of a KiB.
const ACCOUNTS: u64 = 2000;

/// What each has at first.
const BALANCE: u64 = 1000;

/// Most that is transferred at once.
const MOST: u64 = 50;

/// What a client says after each transaction that it knows to be durable.
pub(super) const ACKNOWLEDGED: &str = "acknowledged";

/// The tables and their first content, one statement on each line.
pub(super) fn schema() -> String {
    let note = "an account of which there is nothing to say ".repeat(5);
    format!(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT NOT NULL);\n\
         CREATE TABLE history (client INTEGER NOT NULL, number INTEGER NOT NULL, source INTEGER NOT NULL, \
         target INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (client, number));\n\
         CREATE INDEX accounts_by_balance ON accounts (balance);\n\
         WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ACCOUNTS}) \
         INSERT INTO accounts SELECT n, {BALANCE}, '{note}' FROM numbers;\n"
    )
}

/// The transfers of one client. `begin`: how this database begins a transaction that will write.
pub(super) fn transfers(seed: u64, client: u64, count: u64, begin: &str) -> String {
    let mut rng = Rng::for_part(seed, client);
    let mut script = String::new();
    for number in 1..=count {
        let source = rng.between(1, ACCOUNTS);
        let target = (source + rng.between(1, ACCOUNTS - 1) - 1) % ACCOUNTS + 1;
        let amount = rng.between(1, MOST);
        let change = |account: u64, sign: char| {
            format!("UPDATE accounts SET balance = balance {sign} {amount} WHERE id = {account};\n")
        };
        // In the order of the accounts: two clients never wait for each other.
        let mut changes = [(source, change(source, '-')), (target, change(target, '+'))];
        changes.sort();
        let [(_, first), (_, second)] = changes;
        script += &format!(
            "{begin};\n{first}{second}\
             INSERT INTO history VALUES ({client}, {number}, {source}, {target}, {amount});\n\
             COMMIT;\nSELECT '{ACKNOWLEDGED}';\n"
        );
    }
    script
}

/// What is asked of a database; [`faults`] reads the answers, one on each line.
pub fn question() -> String {
    format!(
        "SELECT count(*) FROM history; \
         SELECT count(*) FROM (SELECT client FROM history GROUP BY client \
         HAVING min(number) <> 1 OR max(number) <> count(*)) AS gaps; \
         SELECT count(*) FROM accounts LEFT JOIN (SELECT account, sum(change) AS moved FROM \
         (SELECT source AS account, -amount AS change FROM history \
         UNION ALL SELECT target, amount FROM history) AS changes GROUP BY account) AS moves \
         ON moves.account = accounts.id WHERE balance <> {BALANCE} + coalesce(moved, 0); \
         SELECT sum(balance) FROM accounts;"
    )
}

/// What is wrong with the answers, when so many transfers can have been durable at the instant.
pub fn faults(answers: &str, possible: &RangeInclusive<u64>) -> Vec<String> {
    let numbers: Option<Vec<i64>> = answers
        .lines()
        .map(|line| line.trim().parse().ok())
        .collect();
    let Some([transfers, gaps, wrong, sum]) = numbers.as_deref() else {
        return vec![format!("it gives no account of itself: {}", answers.trim())];
    };
    let mut faults = Vec::new();
    if !u64::try_from(*transfers).is_ok_and(|transfers| possible.contains(&transfers)) {
        faults.push(format!(
            "{transfers} transfers are there, and at the instant there were {} to {}",
            possible.start(),
            possible.end()
        ));
    }
    if *gaps != 0 {
        faults.push(format!("the transfers of {gaps} clients have gaps"));
    }
    if *wrong != 0 {
        faults.push(format!(
            "{wrong} balances are not what the transfers make them"
        ));
    }
    if u64::try_from(*sum) != Ok(ACCOUNTS * BALANCE) {
        let whole = ACCOUNTS * BALANCE;
        faults.push(format!("all balances are {sum} together, and not {whole}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> String {
        format!("120\n0\n0\n{}\n", ACCOUNTS * BALANCE)
    }

    #[test]
    fn a_sound_database_has_no_faults() {
        assert_eq!(faults(&sound(), &(100..=120)), Vec::<String>::new());
    }

    /// Goal: each thing that can be wrong is said. Method: one answer at a time is another one.
    #[test]
    fn every_wrong_answer_is_a_fault() {
        assert!(
            faults(&sound(), &(121..=130))[0].contains("there were 121 to 130"),
            "stale"
        );
        assert!(
            faults(&sound(), &(100..=119))[0].contains("120 transfers"),
            "future"
        );
        for (line, said) in [(1, "gaps"), (2, "balances are not"), (3, "together")] {
            let mut lines: Vec<&str> = vec!["120", "0", "0", "2000000"];
            lines[line] = "7";
            let found = faults(&lines.join("\n"), &(100..=130));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(said), "{found:?}");
        }
        assert!(
            faults("Error: database disk image is malformed", &(0..=9))[0].contains("malformed")
        );
        assert!(!faults("", &(0..=9)).is_empty());
    }

    /// Goal: a client's script is decided by its seed, moves money and makes none.
    #[test]
    fn transfers_have_two_different_sides() {
        let script = transfers(7, 1, 200, "BEGIN");
        assert_eq!(script, transfers(7, 1, 200, "BEGIN"));
        assert_ne!(script, transfers(8, 1, 200, "BEGIN"));
        assert_eq!(script.matches(ACKNOWLEDGED).count(), 200);
        let account = |line: &str| -> u64 {
            let number = line.trim_end_matches(';').rsplit(' ').next();
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let updates: Vec<u64> = script
            .lines()
            .filter(|line| line.starts_with("UPDATE"))
            .map(account)
            .collect();
        assert_eq!(updates.len(), 400);
        assert!(updates.chunks(2).all(|pair| pair[0] < pair[1]));
        assert!(
            updates
                .iter()
                .all(|account| (1..=ACCOUNTS).contains(account))
        );
    }
}
