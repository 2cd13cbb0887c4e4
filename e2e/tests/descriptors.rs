//! Our protocol against the facts of Kubernetes': every service, message, field, number and type.

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::BTreeSet;

const FACTS: &str = include_str!("../data/cri-v1-schema.txt");
const PACKAGE: &str = "runtime.v1";

#[test]
fn our_cri_is_kubernetes_cri() {
    let set = FileDescriptorSet::decode(strata_api::DESCRIPTORS).unwrap();
    let ours = described(&set);
    let facts = facts();
    assert!(facts.len() > 600, "only {} facts were read", facts.len());
    let missing: Vec<_> = facts.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&facts).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot in the schema: {extra:#?}");
}

/// The facts, one sentence each: what a line belongs to is written before it.
fn facts() -> BTreeSet<String> {
    let mut owner = "";
    let mut facts = BTreeSet::new();
    for line in FACTS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(member) = line.strip_prefix("  ") {
            facts.insert(format!("{owner}: {member}"));
        } else if let Some((of, values)) = line.split_once(": ") {
            facts.extend(values.split(", ").map(|value| format!("{of}: {value}")));
        } else {
            owner = line;
            facts.insert(owner.to_owned());
        }
    }
    facts
}

/// What our descriptors say, in the same sentences.
fn described(set: &FileDescriptorSet) -> BTreeSet<String> {
    let file = set.file.iter().find(|f| f.package() == PACKAGE).expect("the package is there");
    assert_eq!(file.syntax(), "proto3");
    let mut said = BTreeSet::from([format!("package {PACKAGE}")]);
    for service in &file.service {
        said.insert(format!("service {}", service.name()));
        for method in &service.method {
            let stream = if method.server_streaming() { "stream " } else { "" };
            assert!(!method.client_streaming(), "{} streams requests", method.name());
            said.insert(format!(
                "service {}: {}({}) -> {stream}{}",
                service.name(),
                method.name(),
                short(method.input_type()),
                short(method.output_type())
            ));
        }
    }
    file.enum_type.iter().for_each(|e| enumeration("", e, &mut said));
    file.message_type.iter().for_each(|m| message("", m, &mut said));
    said
}

fn message(outer: &str, message: &DescriptorProto, said: &mut BTreeSet<String>) {
    let name = format!("{outer}{}", message.name());
    said.insert(format!("message {name}"));
    for field in &message.field {
        said.insert(format!("message {name}: {}", sentence(message, field)));
    }
    let inner = format!("{name}.");
    message.enum_type.iter().for_each(|e| enumeration(&inner, e, said));
    let nested = message.nested_type.iter().filter(|m| !is_map_entry(m));
    nested.for_each(|m| self::message(&inner, m, said));
}

fn enumeration(outer: &str, of: &EnumDescriptorProto, said: &mut BTreeSet<String>) {
    let values = of.value.iter();
    said.extend(values.map(|v| format!("enum {outer}{}: {}={}", of.name(), v.name(), v.number())));
}

fn sentence(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let map = message
        .nested_type
        .iter()
        .find(|m| is_map_entry(m) && field.type_name().ends_with(&format!(".{}", m.name())));
    let mut text = match map {
        Some(entry) => {
            let [key, value] = entry.field.as_slice() else { panic!("{}: not a map entry", entry.name()) };
            format!("{} map<{},{}>", field.number(), type_name(message, key), type_name(message, value))
        }
        None if field.label() == Label::Repeated => {
            format!("{} repeated {}", field.number(), type_name(message, field))
        }
        None => format!("{} {}", field.number(), type_name(message, field)),
    };
    text = format!("{text} {}", field.name());
    if let Some(index) = field.oneof_index {
        let oneof = &message.oneof_decl[usize::try_from(index).unwrap()];
        text = format!("{text} oneof={}", oneof.name());
    }
    if field.options.as_ref().is_some_and(prost_types::FieldOptions::deprecated) {
        text += " deprecated";
    }
    text
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

fn type_name(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        // A type inside the message itself goes by its own name.
        Type::Message | Type::Enum => {
            let name = short(field.type_name());
            name.strip_prefix(&format!("{}.", message.name())).unwrap_or(&name).to_owned()
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn short(name: &str) -> String {
    name.strip_prefix(&format!(".{PACKAGE}.")).unwrap_or(name).to_owned()
}
