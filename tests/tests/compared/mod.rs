//! Answers of `enforcer debug` against stored ones.

/// Compares with a stored snapshot, with what differs from run to run left out.
pub(crate) fn compare(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../snapshots");
    for (pattern, instead) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", "[TIME]"),
        (r"\b\d\d:\d\d:\d\d\.\d{3}Z", "[TIME OF DAY]"),
        // In a narrow terminal it is in two lines.
        (r"\b\d\d:\d\d:\d\d\.( |$)", "hh:mm:ss.$1"),
        (r"(?m)^\d{3}Z", "mmmZ"),
        (r"\b[0-9a-f]{12}\b", "[REVISION]"),
        (r#"manifests=[^\s",]+"#, "manifests=[FOLDER]"),
        (r#"/[^\s"]*/seed\.yaml"#, "[FOLDER]/seed.yaml"),
        // How images are laid out is not what this is about.
        (r#""(room|used)": \d+"#, "\"$1\": 0"),
        (r"\d+ of \d{4,} +\d+%", "[USED] of [ROOM]"),
        (r#""index": \d+"#, "\"index\": 0"),
        (r#"("allowed|"denied|"would_deny|"packets)(\w*)": \d+"#, "$1$2\": 0"),
        // Gated pods look for neighbours when they like.
        (r"(?m)^neighbour +pass +\d+ *\n?", ""),
        (r#",\s*\{\s*"action": "pass",\s*"packets": 0,\s*"reason": "neighbour"\s*\}"#, ""),
        (r"(peers +\d+ +\d+ +\d+ +)\d+( +)", "${1}n$2"),
    ] {
        settings.add_filter(pattern, instead);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}
