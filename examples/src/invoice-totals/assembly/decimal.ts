import { fail } from "./failure";

// Reads a decimal such as -12.5 as an integer of its smallest unit: 10^-places. Money and rates
// never go through a float, which has no 0.1.
export function parseDecimal(text: string, places: i32, digitsMax: i32, what: string): i64 {
  const negative = text.startsWith("-");
  const unsigned = negative ? text.substring(1) : text;
  const dot = unsigned.indexOf(".");
  const whole = dot < 0 ? unsigned : unsigned.substring(0, dot);
  const fraction = dot < 0 ? "" : unsigned.substring(dot + 1);
  const wellFormed = whole.length > 0 && isDigits(whole) && isDigits(fraction);
  if (!wellFormed || (dot >= 0 && fraction.length == 0)) {
    fail(what + ' is "' + text + '", which is no decimal number');
  }
  if (whole.length > digitsMax || fraction.length > places) {
    fail(
      what + " is " + text + ", but has at most " + digitsMax.toString() +
        " digits before the point and " + places.toString() + " behind it",
    );
  }
  const value = I64.parseInt(whole + fraction.padEnd(places, "0"), 10);
  return negative ? -value : value;
}

export function formatDecimal(value: i64, places: i32): string {
  const digits = (value < 0 ? -value : value).toString().padStart(places + 1, "0");
  const point = digits.length - places;
  const text = digits.substring(0, point) + (places > 0 ? "." + digits.substring(point) : "");
  return value < 0 ? "-" + text : text;
}

// Divides, half away from zero: the rule of most tax offices.
export function divideRounded(value: i64, divisor: i64): i64 {
  const half = divisor / 2;
  return (value < 0 ? value - half : value + half) / divisor;
}

function isDigits(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 48 || code > 57) return false;
  }
  return true;
}
