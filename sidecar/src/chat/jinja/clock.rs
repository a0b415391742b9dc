//! `strftime_now`: the date some templates put into their system message, in UTC.

use super::error::{Stop, failed, unsupported};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// C's strftime in its own locale, with glibc's flags `-`, `_`, `0`, `^` and `#`. `seconds`: since
/// 1970, UTC.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Stop> {
    let mut text = String::new();
    let mut codes = format.chars();
    while let Some(c) = codes.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut flag = None;
        let mut code = codes.next();
        if let Some(found @ ('-' | '_' | '0' | '^' | '#')) = code {
            flag = Some(found);
            code = codes.next();
        }
        let Some(code) = code else {
            return failed("strftime_now: the format ends with a '%'");
        };
        text.push_str(&part(code, flag, seconds)?);
    }
    Ok(text)
}

fn part(code: char, flag: Option<char>, seconds: u64) -> Result<String, Stop> {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let date = Date::of(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let hour12 = (hour + 11) % 12 + 1;
    // 1970-01-01 was a Thursday. Sunday is 0.
    let weekday = (days + 4) % 7;
    let number = |number: u64, width: usize, pad: char| match flag {
        Some('-') => number.to_string(),
        Some('_') => format!("{number:width$}"),
        Some('0') => format!("{number:0width$}"),
        _ if pad == ' ' => format!("{number:width$}"),
        _ => format!("{number:0width$}"),
    };
    let word = |word: &str| match flag {
        Some('^' | '#') => word.to_uppercase(),
        _ => word.to_owned(),
    };
    let several = |format: &str| strftime(format, seconds);
    let day = DAYS[usize::try_from(weekday).unwrap_or(0)];
    let month = MONTHS[date.month - 1];
    let day_of_year = date.day_of_year - 1;
    Ok(match code {
        'Y' => date.year.to_string(),
        'C' => number(date.year / 100, 2, '0'),
        'y' => number(date.year % 100, 2, '0'),
        'm' => number(date.month as u64, 2, '0'),
        'd' => number(date.day, 2, '0'),
        'e' => number(date.day, 2, ' '),
        'j' => number(date.day_of_year, 3, '0'),
        'B' => word(month),
        'b' | 'h' => word(&month[..3]),
        'A' => word(day),
        'a' => word(&day[..3]),
        'H' => number(hour, 2, '0'),
        'k' => number(hour, 2, ' '),
        'I' => number(hour12, 2, '0'),
        'l' => number(hour12, 2, ' '),
        'M' => number(minute, 2, '0'),
        'S' => number(second, 2, '0'),
        's' => seconds.to_string(),
        'p' if flag == Some('#') => if hour < 12 { "am" } else { "pm" }.to_owned(),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'P' => if hour < 12 { "am" } else { "pm" }.to_owned(),
        'u' => ((weekday + 6) % 7 + 1).to_string(),
        'w' => weekday.to_string(),
        'U' => number((day_of_year + 7 - weekday) / 7, 2, '0'),
        'W' => number((day_of_year + 7 - (weekday + 6) % 7) / 7, 2, '0'),
        'F' => several("%Y-%m-%d")?,
        'T' | 'X' => several("%H:%M:%S")?,
        'R' => several("%H:%M")?,
        'r' => several("%I:%M:%S %p")?,
        'D' | 'x' => several("%m/%d/%y")?,
        'c' => several("%a %b %e %H:%M:%S %Y")?,
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        '%' => "%".to_owned(),
        // The date that transformers passes has no zone.
        'Z' | 'z' => String::new(),
        other => return unsupported(&format!("strftime_now: the code %{other}")),
    })
}

/// A day of the Gregorian calendar.
#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    /// 1 to 12.
    month: usize,
    day: u64,
    /// 1 to 366.
    day_of_year: u64,
}

impl Date {
    /// `days`: since 1970-01-01.
    fn of(mut days: u64) -> Date {
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        // 400 years have always 146,097 days.
        let mut year = 1970 + days / 146_097 * 400;
        days %= 146_097;
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let day_of_year = days + 1;
        let february = 28 + u64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Date {
            year,
            month,
            day: days + 1,
            day_of_year,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @N '+%Y-%m-%d %j %a %H:%M:%S'`
        for (seconds, expected) in [
            (0, "1970-01-01 001 Thu 00:00:00"),
            (951_782_400, "2000-02-29 060 Tue 00:00:00"),
            (1_735_689_599, "2024-12-31 366 Tue 23:59:59"),
            (1_735_689_600, "2025-01-01 001 Wed 00:00:00"),
            (4_107_542_400, "2100-03-01 060 Mon 00:00:00"),
        ] {
            assert_eq!(
                strftime("%Y-%m-%d %j %a %H:%M:%S", seconds).unwrap(),
                expected
            );
        }
        assert_eq!(
            strftime("%d %b %Y, %I %p", 1_721_952_000).unwrap(),
            "26 Jul 2024, 12 AM"
        );
    }

    #[test]
    fn unknown_codes_are_refused() {
        assert!(strftime("%Q", 0).unwrap_err().message.contains("%Q"));
        assert!(strftime("100%", 0).is_err());
    }
}
