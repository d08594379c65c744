use std::fs;
use std::path::Path;

use flametune_quant::gguf::{GgmlType, GgufFile};

use crate::adapter::{base, golden, says};
use crate::{flametune, stderr, stdout};

fn export(to: &str, model: &Path, output: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = flametune();
    command
        .args(["export", "--to", to])
        .arg(model)
        .arg(output)
        .args(more);
    command
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_gguf_file_says_what_the_folder_says() {
    let base = base();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("m.gguf");
    export("gguf", base.path(), &file, &["--type", "f32"])
        .assert()
        .success();
    assert_eq!(says(&file), says(base.path()));
    // Its own export is the same file but for its name.
    let again = out.path().join("again.gguf");
    export("gguf", &file, &again, &["--type", "f32"])
        .assert()
        .success();
    let (first, second) = (
        GgufFile::open(&file).unwrap(),
        GgufFile::open(&again).unwrap(),
    );
    for tensor in first.tensors() {
        assert_eq!(
            first.tensor_bytes(tensor.name()).unwrap(),
            second.tensor_bytes(tensor.name()).unwrap()
        );
    }
    for (key, value) in first
        .metadata()
        .iter()
        .filter(|(key, _)| *key != "general.name")
    {
        assert_eq!(second.metadata().value(key), Some(value), "{key}");
    }
}

/// A folder made from a GGUF file speaks by itself: its tokenizer comes with it.
#[test]
fn a_folder_from_a_gguf_file_has_its_tokenizer() {
    let base = base();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("m.gguf");
    export("gguf", base.path(), &file, &["--type", "f32"])
        .assert()
        .success();
    let folder = out.path().join("folder");
    export("hf", &file, &folder, &[]).assert().success();
    assert_eq!(says(&folder), says(base.path()));
}

#[test]
fn every_type_is_written_and_close() {
    let base = base();
    let out = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("f16", GgmlType::F16),
        ("bf16", GgmlType::BF16),
        ("q8_0", GgmlType::Q8_0),
        ("q4_0", GgmlType::Q4_0),
        ("q4_k", GgmlType::Q5_0),
    ] {
        let file = out.path().join(format!("{name}.gguf"));
        let text = export("gguf", base.path(), &file, &["--type", name])
            .assert()
            .success()
            .get_output()
            .stderr
            .clone();
        assert!(String::from_utf8_lossy(&text).contains("divergence"));
        let read = GgufFile::open(&file).unwrap();
        // Rows of this model are shorter than a block of Q4_K.
        let tensor = read.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!(tensor.kind(), kind, "{name}");
        assert_eq!(
            read.tensor("output_norm.weight").unwrap().kind(),
            GgmlType::F32
        );
        says(&file);
    }
    // Nothing but the files is left.
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 5);
}

#[test]
fn an_adapter_goes_into_the_weights() {
    let (base, lora) = (base(), golden("lora_qv"));
    let out = tempfile::tempdir().unwrap();
    let adapted = stdout(flametune().arg("generate").arg(base.path()).args([
        "--quiet",
        "--prompt",
        "Hello",
        "--max-tokens",
        "12",
        "--dtype",
        "f32",
        "--adapter",
        shown(lora.path()),
    ]));
    let adapter = ["--adapter", shown(lora.path())];
    let folder = out.path().join("merged");
    export("hf", base.path(), &folder, &adapter)
        .assert()
        .success();
    assert_eq!(says(&folder), adapted);
    let file = out.path().join("m.gguf");
    let typed = [&adapter[..], &["--type", "f32"]].concat();
    export("gguf", base.path(), &file, &typed)
        .assert()
        .success();
    assert_eq!(says(&file), adapted);
}

#[test]
fn an_adapter_folder_is_written_anew() {
    let (base, lora) = (base(), golden("lora_qv"));
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("sql");
    let adapter = ["--adapter", shown(lora.path())];
    let text = export("adapter", base.path(), &folder, &adapter)
        .assert()
        .success()
        .get_output()
        .stderr
        .clone();
    assert!(String::from_utf8_lossy(&text).contains("--max-lora-rank 8"));
    assert_eq!(
        fs::read(folder.join("adapter_model.safetensors")).unwrap(),
        fs::read(lora.path().join("adapter_model.safetensors")).unwrap()
    );
}

#[test]
fn a_gguf_lora_has_the_factors_of_the_adapter() {
    let (base, lora) = (base(), golden("lora_qv"));
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("lora.gguf");
    let arguments = ["--adapter", shown(lora.path()), "--type", "f32"];
    export("gguf-lora", base.path(), &file, &arguments)
        .assert()
        .success();
    let read = GgufFile::open(&file).unwrap();
    let metadata = read.metadata();
    assert_eq!(metadata.require::<&str>("general.type").unwrap(), "adapter");
    assert_eq!(metadata.require::<&str>("adapter.type").unwrap(), "lora");
    assert_eq!(
        metadata.require::<&str>("general.architecture").unwrap(),
        "llama"
    );
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(lora.path().join("adapter_config.json")).unwrap())
            .unwrap();
    let alpha = metadata.require::<f64>("adapter.lora.alpha").unwrap();
    assert_eq!(alpha, config["lora_alpha"].as_f64().unwrap());
    let r = usize::try_from(config["r"].as_u64().unwrap()).unwrap();
    for module in ["attn_q", "attn_v"] {
        let a = read
            .tensor(&format!("blk.0.{module}.weight.lora_a"))
            .unwrap();
        let b = read
            .tensor(&format!("blk.0.{module}.weight.lora_b"))
            .unwrap();
        assert_eq!((a.shape()[0], b.shape()[1]), (r, r));
    }
    assert!(read.tensor("blk.0.attn_k.weight.lora_a").is_none());
}

#[test]
fn what_has_no_form_is_refused_and_leaves_nothing() {
    let base = base();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("m.gguf");
    let refused = |to: &str, more: &[&str]| stderr(&mut export(to, base.path(), &file, more));
    for (adapter, to, expected) in [
        ("dora", "gguf-lora", "use_dora"),
        ("ia3", "gguf-lora", "of type IA3"),
    ] {
        let lora = golden(adapter);
        let error = refused(to, &["--adapter", shown(lora.path())]);
        assert!(error.contains(expected), "{error}");
    }
    assert!(refused("gguf-lora", &[]).contains("name one with --adapter"));
    let lora = golden("lora_qv");
    let error = refused(
        "gguf-lora",
        &["--adapter", shown(lora.path()), "--type", "q8_0"],
    );
    assert!(error.contains("f32, f16 or bf16"), "{error}");
    // A limit that cannot be met.
    let error = refused("gguf", &["--type", "q4_0", "--max-kl", "0"]);
    assert!(error.contains("nothing was published"), "{error}");
    let folder = out.path().join("x");
    let error = stderr(&mut export("gguf", base.path(), &folder, &[]));
    assert!(error.contains("must be a .gguf file"), "{error}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
