//! Kubernetes objects as people write them: JSON values in, block-style YAML out.

use serde_json::Value;

/// Several objects as one multi-document text.
pub fn documents(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{}", document(object))).collect()
}

/// One object, with a newline at its end.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text.trim_start().to_owned() + "\n"
}

/// Writes a value after its key or dash: scalars in the same line, collections in lines below.
fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                *out += &format!("\n{pad}{}:", scalar(key));
                write(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut text = String::new();
                write(item, indent + 2, &mut text);
                *out += &format!("\n{pad}- {}", text.trim_start());
            }
        }
        Value::String(text) => *out += &format!(" {}", scalar(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) | Value::Array(_) => {
            *out += &format!(" {value}");
        }
    }
}

/// Plain where no reader of YAML can take it for anything but a string, else quoted as in JSON.
fn scalar(text: &str) -> String {
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_come_out_in_block_style() {
        let object = json!({
            "kind": "Cluster",
            "metadata": {"name": "c1", "annotations": {"a.b/c": "true"}},
            "spec": {"ranges": ["10.0.0.0/8", "x"], "ports": [{"name": "a", "port": 1}], "no": [],
                     "deep": [[1, 2]], "empty": null},
        });
        let expected = "\
kind: Cluster
metadata:
  annotations:
    a.b/c: \"true\"
  name: c1
spec:
  deep:
    - - 1
      - 2
  empty: null
  \"no\": []
  ports:
    - name: a
      port: 1
  ranges:
    - \"10.0.0.0/8\"
    - x
";
        assert_eq!(document(&object), expected);
        assert_eq!(documents(&[json!({"a": 1}), json!({"b": 2})]), "---\na: 1\n---\nb: 2\n");
    }
}
