// As much of JSON as an invoice needs: a reader of whole texts, and quoted strings.
import { fail } from "./failure";

const DEPTH_MAX = 64;

export enum Kind {
  Null,
  Bool,
  Number,
  String,
  Array,
  Object,
}

export class Json {
  kind: Kind = Kind.Null;
  text: string = ""; // a number as it was written, or what a string stands for
  names: string[] = [];
  items: Json[] = []; // the elements, or the members in the order of their names

  // The member of that name; null where this is no object or has none.
  get(name: string): Json | null {
    const at = this.names.lastIndexOf(name);
    return at < 0 ? null : this.items[at];
  }

  // The text of a string or a number; empty where the member is anything else.
  textOf(name: string): string {
    const member = this.get(name);
    return member ? member.text : "";
  }
}

// The value of a whole text; ends the program where it is none, and says where.
export function parse(text: string, what: string): Json {
  return new Reader(text, what).whole();
}

export function quoted(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code == 34 || code == 92) out += "\\" + text.charAt(i);
    else if (code < 32) out += "\\u" + code.toString(16).padStart(4, "0");
    else out += text.charAt(i);
  }
  return out + '"';
}

class Reader {
  at: i32 = 0;

  constructor(
    private text: string,
    private what: string,
  ) {}

  whole(): Json {
    const value = this.value(0);
    this.skipSpace();
    if (this.at < this.text.length) this.refuse("expected nothing more");
    return value;
  }

  private refuse(why: string): void {
    fail(this.what + ", character " + (this.at + 1).toString() + ": " + why);
  }

  private peek(): i32 {
    return this.at < this.text.length ? this.text.charCodeAt(this.at) : -1;
  }

  private take(character: string): bool {
    if (this.peek() != character.charCodeAt(0)) return false;
    this.at++;
    return true;
  }

  private need(character: string): void {
    if (!this.take(character)) this.refuse("expected " + character);
  }

  private skipSpace(): void {
    let c = this.peek();
    while (c == 32 || c == 9 || c == 10 || c == 13) {
      this.at++;
      c = this.peek();
    }
  }

  private value(depth: i32): Json {
    if (depth > DEPTH_MAX) this.refuse("nested too deeply");
    this.skipSpace();
    const value = new Json();
    if (this.take("{")) {
      this.children(value, Kind.Object, "}", depth);
    } else if (this.take("[")) {
      this.children(value, Kind.Array, "]", depth);
    } else if (this.peek() == 34) {
      value.kind = Kind.String;
      value.text = this.string();
    } else if (this.word("null")) {
      value.kind = Kind.Null;
    } else if (this.word("true") || this.word("false")) {
      value.kind = Kind.Bool;
    } else {
      value.kind = Kind.Number;
      value.text = this.number();
    }
    return value;
  }

  private children(parent: Json, kind: Kind, close: string, depth: i32): void {
    parent.kind = kind;
    this.skipSpace();
    if (this.take(close)) return;
    do {
      this.skipSpace();
      if (kind == Kind.Object) {
        parent.names.push(this.string());
        this.skipSpace();
        this.need(":");
      }
      parent.items.push(this.value(depth + 1));
      this.skipSpace();
    } while (this.take(","));
    this.need(close);
  }

  private word(word: string): bool {
    if (!this.text.startsWith(word, this.at)) return false;
    this.at += word.length;
    return true;
  }

  private digits(): void {
    const begin = this.at;
    while (this.peek() >= 48 && this.peek() <= 57) this.at++;
    if (this.at == begin) this.refuse("expected a value");
  }

  private number(): string {
    const begin = this.at;
    this.take("-");
    if (!this.take("0")) this.digits();
    if (this.take(".")) this.digits();
    if (this.take("e") || this.take("E")) {
      if (!this.take("+")) this.take("-");
      this.digits();
    }
    return this.text.substring(begin, this.at);
  }

  private string(): string {
    let out = "";
    this.need('"');
    while (!this.take('"')) {
      const begin = this.at;
      while (this.peek() >= 32 && this.peek() != 34 && this.peek() != 92) this.at++;
      out += this.text.substring(begin, this.at);
      if (this.take("\\")) out += this.escape();
      else if (this.peek() != 34) this.refuse("the string does not end");
    }
    return out;
  }

  private escape(): string {
    const at = '"\\/bfnrt'.indexOf(this.text.charAt(this.at));
    if (this.peek() >= 0 && at >= 0) {
      this.at++;
      return '"\\/\b\f\n\r\t'.charAt(at);
    }
    if (!this.take("u")) this.refuse("unknown escape");
    let code = 0;
    for (let i = 0; i < 4; i++) {
      const digit = "0123456789abcdef".indexOf(this.text.charAt(this.at).toLowerCase());
      if (this.peek() < 0 || digit < 0) this.refuse("expected four hex digits");
      code = code * 16 + digit;
      this.at++;
    }
    return String.fromCharCode(code); // strings are UTF-16: a pair of surrogates meets here
  }
}
