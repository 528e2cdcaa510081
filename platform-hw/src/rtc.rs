//! The battery-backed clock (MC146818 and its successors).

use crate::{machine, port};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const BINARY: u8 = 4;
const HOURS_24: u8 = 2;
const AFTERNOON: u8 = 0x80;

fn read(register: u8) -> u8 {
    port::write8(INDEX, register);
    port::read8(DATA)
}

/// The raw registers: second, minute, hour, day, month, year, century.
fn snapshot() -> [u8; 7] {
    let century = machine::get().and_then(|machine| machine.century_register);
    [read(0), read(2), read(4), read(7), read(8), read(9), century.map_or(0, read)]
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that start in March have the leap day at their end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// Nanoseconds since 1970, to the second; `None` without a clock that makes sense.
pub fn realtime() -> Option<u64> {
    const NOTHING: u8 = 0xff;
    if read(STATUS_A) == NOTHING && read(STATUS_B) == NOTHING {
        return None;
    }
    // An update takes less than 2 ms. One that came between two of the readings has changed the seconds.
    for _ in 0..20_000 {
        if read(STATUS_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let now = snapshot();
        if read(STATUS_A) & UPDATE_IN_PROGRESS == 0 && read(0) == now[0] {
            return decode(now, read(STATUS_B));
        }
    }
    None
}

fn decode([second, minute, hour, day, month, year, century]: [u8; 7], format: u8) -> Option<u64> {
    let number =
        |value: u8| u64::from(if format & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) });
    let hours = if format & HOURS_24 != 0 {
        number(hour)
    } else {
        number(hour & !AFTERNOON) % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 }
    };
    let century = match number(century) {
        century @ 19..=29 => century,
        // No such register: the year that is nearer.
        _ if number(year) >= 70 => 19,
        _ => 20,
    };
    let year = century * 100 + number(year);
    let (month, day) = (number(month), number(day));
    let valid = number(second) < 61
        && number(minute) < 60
        && hours < 24
        && (1..=12).contains(&month)
        && (1..=31).contains(&day);
    if !valid || year < 1970 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hours * 3_600 + number(minute) * 60 + number(second);
    Some(seconds * 1_000_000_000)
}
