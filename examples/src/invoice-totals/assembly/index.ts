// Invoice-totals adds up an invoice: each line, the net, the value added tax by rate, and the
// total, in whole cents. Config: {"currency": "CHF", "rates": {"standard": "8.1"}}.
import { divideRounded, formatDecimal, parseDecimal } from "./decimal";
import { fail } from "./failure";
import { Json, Kind, parse, quoted } from "./json";

const QUANTITY_PLACES = 3;
const PRICE_PLACES = 2;
const RATE_PLACES = 2;
// So that no product leaves 63 bits: quantities of 6 digits by prices of 7, and nets by rates.
const NET_MAX: i64 = 10_000_000_000_000;

const DATA_EXAMPLE =
  '{"lines": [{"text": "valve", "quantity": 2, "price": "9.90", "rate": "standard"}]}';
const CONFIG_EXAMPLE = '{"currency": "CHF", "rates": {"standard": "8.1"}}';

main();

function main(): void {
  const config = readConfig();
  const rates = ratesOf(config);
  const event = parse(readInput(), "the event");
  const invoice = event.get("data");
  const lines = invoice ? invoice.get("lines") : null;
  if (!invoice || !lines || lines.kind != Kind.Array || lines.items.length == 0) {
    fail("the event's data needs lines, such as " + DATA_EXAMPLE);
    return; // never reached, but the compiler does not know that of fail
  }
  const number = invoice.textOf("number");
  const currency = config.textOf("currency");
  process.stdout.write(
    '{"number":' + quoted(number) + ',"currency":' + quoted(currency) + "," +
      totals(lines.items, rates) + "}\n",
  );
  process.stderr.write("invoice " + number + ": " + lines.items.length.toString() + " lines\n");
}

function readConfig(): Json {
  const known = process.env.has("SLUICE_CONFIG");
  return parse(known ? process.env.get("SLUICE_CONFIG") : "{}", "the config");
}

function ratesOf(config: Json): Json {
  const rates = config.get("rates");
  if (!rates || rates.kind != Kind.Object) {
    fail("the config needs rates, such as " + CONFIG_EXAMPLE);
    return new Json();
  }
  return rates;
}

function readInput(): string {
  const buffer = new ArrayBuffer(65536);
  let bytes = new Uint8Array(0);
  for (let n = process.stdin.read(buffer); n > 0; n = process.stdin.read(buffer)) {
    const longer = new Uint8Array(bytes.length + n);
    longer.set(bytes);
    longer.set(Uint8Array.wrap(buffer, 0, n), bytes.length);
    bytes = longer;
  }
  return String.UTF8.decode(bytes.buffer);
}

// The members of the result that are reckoned: lines, net, taxes, total.
function totals(lines: Json[], rates: Json): string {
  const nets = new Map<string, i64>();
  const rows: string[] = [];
  let net: i64 = 0;
  for (let i = 0; i < lines.length; i++) {
    const rate = lines[i].textOf("rate");
    const amount = lineNet(lines[i], i);
    if (!rates.get(rate)) {
      fail(lineName(i) + "rate is " + quoted(rate) + ", which the config has no percentage for");
    }
    nets.set(rate, (nets.has(rate) ? nets.get(rate) : 0) + amount);
    net += amount;
    if (net > NET_MAX || net < -NET_MAX) fail("the net is too large to be reckoned with");
    rows.push('{"text":' + quoted(lines[i].textOf("text")) + ',"net":' + money(amount) + "}");
  }
  const taxes: string[] = [];
  const total = net + addTaxes(nets, rates, taxes);
  return '"lines":[' + rows.join(",") + '],"net":' + money(net) +
    ',"taxes":[' + taxes.join(",") + '],"total":' + money(total);
}

function lineName(index: i32): string {
  return "lines[" + index.toString() + "].";
}

function lineNet(line: Json, index: i32): i64 {
  const where = lineName(index);
  const quantity = parseDecimal(line.textOf("quantity"), QUANTITY_PLACES, 6, where + "quantity");
  const price = parseDecimal(line.textOf("price"), PRICE_PLACES, 7, where + "price");
  return divideRounded(quantity * price, 1000);
}

// Appends the taxes in the order in which the invoice names their rates; returns their sum.
function addTaxes(nets: Map<string, i64>, rates: Json, rows: string[]): i64 {
  const names = nets.keys();
  let sum: i64 = 0;
  for (let i = 0; i < names.length; i++) {
    const net = nets.get(names[i]);
    const percent = rates.textOf(names[i]);
    const rate = parseDecimal(percent, RATE_PLACES, 2, "the config's rates." + names[i]);
    const tax = divideRounded(net * rate, 10_000);
    sum += tax;
    rows.push(
      '{"rate":' + quoted(names[i]) + ',"percent":' + quoted(percent) +
        ',"net":' + money(net) + ',"tax":' + money(tax) + "}",
    );
  }
  return sum;
}

function money(cents: i64): string {
  return '"' + formatDecimal(cents, PRICE_PLACES) + '"';
}
