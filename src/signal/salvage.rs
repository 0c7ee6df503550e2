//! The `requestId` of a message that cannot be read as a whole: nested too deeply, cut off, or with an escape of half a
//! surrogate pair somewhere. The refusal then names the request. `request` is its caller.

use serde_json::Value;

/// The `requestId` of the outermost object, if its beginning and end can be found.
pub(super) fn request_id(text: &str) -> Option<Value> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut key_follows) = (0, 0_usize, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at)?;
                if depth == 1 && key_follows && text.get(at..end) == Some("\"requestId\"") {
                    return value(text, end);
                }
                key_follows = false;
                at = end;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                key_follows = byte == b'{';
            }
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' => key_follows = true,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Behind the closing quote of the string that begins here.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The string or number behind a colon.
fn value(text: &str, colon: usize) -> Option<Value> {
    let rest = text.get(colon..)?.trim_start().strip_prefix(':')?.trim_start();
    let end = match rest.as_bytes().first()? {
        b'"' => string_end(rest.as_bytes(), 0)?,
        _ => rest.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(rest.len()),
    };
    serde_json::from_str(rest.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_found_in_what_cannot_be_read() {
        for (text, id) in [
            (r#"{"type":"ping","requestId":7,"data":"\ud800"}"#, json!(7)),
            (r#"{"data":{"requestId":1,"x":"\udfff\""},"requestId" : "a\"b" }"#, json!("a\"b")),
            (r#"{"x":1e999,"requestId":-2.5}"#, json!(-2.5)),
            (r#"{"x":["requestId",{"requestId":1}],"requestId":3,"cut":"of"#, json!(3)),
            (&format!(r#"{{"x":{},"requestId":9}}"#, "[".repeat(90) + &"]".repeat(90)), json!(9)),
            (r#"{"requestId":5} x"#, json!(5)),
        ] {
            assert_eq!(request_id(text), Some(id), "{text}");
        }
    }

    #[test]
    fn it_is_not_guessed() {
        for text in [
            "",
            "{",
            "[\"requestId\",1]",
            "\"requestId\"",
            r#"{"a":"requestId","b":1}"#,
            r#"{"requestId"}"#,
            r#"{"requestId":"\ud800"}"#,
            r#"{"requestId":"cut"#,
            r#"{"a":{"requestId":1}}"#,
            "}}}{\"requestId\":1",
        ] {
            assert_eq!(request_id(text), None, "{text}");
        }
    }
}
