//! Csv-to-json turns the CSV text of an event (RFC 4180: quoted fields may hold delimiters, line
//! ends and doubled quotes) into an array of objects, one for each row under the header.
//! Config: {"delimiter": ";", "numbers": ["amount"], "empty": "null"}.

const std = @import("std");

const Config = struct {
    delimiter: []const u8 = ",",
    numbers: []const []const u8 = &.{}, // columns whose values must be JSON numbers
    empty: enum { null, text } = .text, // what an empty field becomes
};

const Event = struct { data: ?struct { csv: []const u8 } = null };

const options: std.json.ParseOptions = .{ .ignore_unknown_fields = true };
const input_bytes_max = 16 << 20;

pub fn main() !void {
    var arena = std.heap.ArenaAllocator.init(std.heap.wasm_allocator);
    const allocator = arena.allocator();
    const environment = try std.process.getEnvMap(allocator);
    const config = std.json.parseFromSliceLeaky(
        Config,
        allocator,
        environment.get("SLUICE_CONFIG") orelse "{}",
        options,
    ) catch |e| die("the config is not what it should be: {s}", .{@errorName(e)});
    if (config.delimiter.len != 1)
        die("the config's delimiter \"{s}\" is not one character of ASCII", .{config.delimiter});
    var result: std.Io.Writer.Allocating = .init(allocator);
    try convert(allocator, try csvOfEvent(allocator), config, &result.writer);
    try std.fs.File.stdout().writeAll(result.written());
}

fn die(comptime format: []const u8, arguments: anytype) noreturn {
    std.debug.print("csv-to-json: " ++ format ++ "\n", arguments);
    std.process.exit(2);
}

fn csvOfEvent(allocator: std.mem.Allocator) ![]const u8 {
    const text = try std.fs.File.stdin().readToEndAlloc(allocator, input_bytes_max);
    const needs = "the event's data needs csv, a text, such as {{\"csv\": \"a,b\\n1,2\"}}";
    const parsed = std.json.parseFromSliceLeaky(Event, allocator, text, options);
    const event = parsed catch |e| die(needs ++ " ({s})", .{@errorName(e)});
    const data = event.data orelse die(needs, .{});
    return data.csv;
}

/// One pass over the text; `next` returns the fields of the next row, null at the end.
const Rows = struct {
    allocator: std.mem.Allocator,
    text: []const u8,
    delimiter: u8,
    at: usize = 0,
    line: usize = 1, // where the row that `next` returned begins
    lines: usize = 0,

    fn next(self: *Rows) !?[]const []const u8 {
        self.line += self.lines;
        self.lines = 0;
        if (self.at >= self.text.len) return null;
        var fields: std.ArrayList([]const u8) = .empty;
        while (true) {
            try fields.append(self.allocator, try self.field());
            if (self.at >= self.text.len) return fields.items;
            const end = self.text[self.at];
            self.at += 1;
            if (end == self.delimiter) continue;
            const more = self.at < self.text.len;
            if (end == '\r' and more and self.text[self.at] == '\n') self.at += 1;
            self.lines += 1;
            return fields.items;
        }
    }

    fn field(self: *Rows) ![]const u8 {
        if (self.at < self.text.len and self.text[self.at] == '"') return self.quoted();
        const begin = self.at;
        while (self.at < self.text.len and !self.isEnd(self.text[self.at])) self.at += 1;
        return self.text[begin..self.at];
    }

    fn quoted(self: *Rows) ![]const u8 {
        var value: std.ArrayList(u8) = .empty;
        self.at += 1;
        while (self.at < self.text.len) {
            const c = self.text[self.at];
            self.at += 1;
            if (c == '\n') self.lines += 1;
            if (c == '"') {
                if (self.at == self.text.len or self.isEnd(self.text[self.at])) return value.items;
                if (self.text[self.at] != '"')
                    die("line {d}: text behind a closing quote", .{self.line + self.lines});
                self.at += 1;
            }
            try value.append(self.allocator, c);
        }
        die("line {d}: a quoted field does not end", .{self.line});
    }

    fn isEnd(self: *const Rows, c: u8) bool {
        return c == self.delimiter or c == '\n' or c == '\r';
    }
};

fn convert(
    allocator: std.mem.Allocator,
    csv: []const u8,
    config: Config,
    out: *std.Io.Writer,
) !void {
    const bom = "\u{FEFF}"; // Excel begins its UTF-8 with one
    const text = if (std.mem.startsWith(u8, csv, bom)) csv[bom.len..] else csv;
    var rows: Rows = .{ .allocator = allocator, .text = text, .delimiter = config.delimiter[0] };
    const header = try rows.next() orelse die("the csv is empty; it needs a header at least", .{});
    for (config.numbers) |name| {
        for (header) |column| {
            if (std.mem.eql(u8, name, column)) break;
        } else die("the csv has no column \"{s}\", which the config lists in numbers", .{name});
    }
    var json: std.json.Stringify = .{ .writer = out };
    var count: usize = 0;
    try json.beginArray();
    while (try rows.next()) |fields| {
        if (fields.len == 1 and fields[0].len == 0) continue; // an empty line
        if (fields.len != header.len)
            die("line {d}: {d} fields under {d} columns", .{ rows.line, fields.len, header.len });
        try json.beginObject();
        for (header, fields) |column, value| {
            try json.objectField(column);
            try writeValue(&json, config, rows.line, column, value);
        }
        try json.endObject();
        count += 1;
    }
    try json.endArray();
    try out.writeByte('\n');
    std.debug.print("{d} rows of {d} columns\n", .{ count, header.len });
}

fn writeValue(
    json: *std.json.Stringify,
    config: Config,
    line: usize,
    column: []const u8,
    value: []const u8,
) !void {
    if (value.len == 0 and config.empty == .null) return json.write(null);
    for (config.numbers) |name| {
        if (!std.mem.eql(u8, name, column)) continue;
        // As it was written: a number that went through a float could lose its last digits.
        if (!isDecimal(value))
            die("line {d}: \"{s}\" in {s} is no number", .{ line, value, column });
        return json.print("{s}", .{value});
    }
    return json.write(value);
}

/// Whether the text is a number of JSON without an exponent.
fn isDecimal(text: []const u8) bool {
    const unsigned = if (std.mem.startsWith(u8, text, "-")) text[1..] else text;
    var parts = std.mem.splitScalar(u8, unsigned, '.');
    const whole = parts.first();
    const leading_zero = whole.len > 1 and whole[0] == '0';
    if (!isDigits(whole) or leading_zero) return false;
    const fraction = parts.next() orelse return true;
    return isDigits(fraction) and parts.next() == null;
}

fn isDigits(text: []const u8) bool {
    for (text) |c| if (!std.ascii.isDigit(c)) return false;
    return text.len > 0;
}
