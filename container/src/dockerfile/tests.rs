//! Whole files.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The only instruction after FROM.
fn step(text: &str) -> Instruction {
    let file = parse(&format!("FROM scratch\n{text}\n"));
    let [step] = &file.stages[0].steps[..] else { panic!("{file:?}") };
    step.instruction.clone()
}

fn error(text: &str) -> String {
    Dockerfile::parse(text.as_bytes()).expect_err(text).to_string()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn test_parse_several_stages() {
    let file = parse(
        "ARG V=1 W\nFROM --platform=linux/amd64 alpine:$V AS Build\nRUN make\nFROM scratch\n\
         COPY --from=build --chown=1:2 /a /b c/\nCMD [\"/c/a\"]\n",
    );
    let args: Vec<_> = file.args.iter().map(|(_, name, value)| (name, value.as_deref())).collect();
    assert_eq!(args, [(&"V".to_owned(), Some("1")), (&"W".to_owned(), None)]);
    let [build, last] = &file.stages[..] else { panic!("{file:?}") };
    assert_eq!((build.line, build.base.as_str()), (2, "alpine:$V"));
    assert_eq!(build.name.as_deref(), Some("build"));
    assert_eq!(build.platform.as_deref(), Some("linux/amd64"));
    assert_eq!(last.name, None);
    let Instruction::Copy(copy) = &last.steps[0].instruction else { panic!("{last:?}") };
    assert_eq!(copy.from.as_deref(), Some("build"));
    assert_eq!(copy.sources, [Source::Path("/a".into()), Source::Path("/b".into())]);
    assert_eq!(copy.target, "c/");
    assert_eq!(last.steps[1].line, 6);
    assert_eq!(last.steps[1].text, "CMD [\"/c/a\"]");
}

#[test]
fn test_parse_commands_in_both_forms() {
    let run = |command| Instruction::Run { command, network: RunNetwork::Default };
    assert_eq!(step("RUN [\"a\", \"b c\"]"), run(Command::Exec(owned(&["a", "b c"]))));
    let shell = "[ \"$x\" = y ] && z";
    assert_eq!(step(&format!("run {shell}")), run(Command::Shell(shell.into())));
    assert_eq!(step("CMD []"), Instruction::Cmd(Command::Exec(vec![])));
    assert_eq!(step("ENTRYPOINT a -b"), Instruction::Entrypoint(Command::Shell("a -b".into())));
    assert_eq!(
        step("RUN --network=none true"),
        Instruction::Run { command: Command::Shell("true".into()), network: RunNetwork::None }
    );
}

#[test]
fn test_parse_heredocs() {
    let run = |command| Instruction::Run { command, network: RunNetwork::Default };
    assert_eq!(step("RUN <<EOF\na\nb $c\nEOF"), run(Command::Shell("a\nb $c\n".into())));
    assert_eq!(
        step("RUN cat <<-E > /x\n\ta\n\tE"),
        run(Command::Shell("cat <<-E > /x\n\ta\n\tE\n".into()))
    );
    let Instruction::Copy(copy) = step("COPY <<one <<'two' /d/\n$a\none\n$b\ntwo") else {
        panic!()
    };
    let inline = |name: &str, text: &str, expands| Source::Inline {
        name: name.into(),
        text: text.into(),
        expands,
    };
    assert_eq!(copy.sources, [inline("one", "$a\n", true), inline("two", "$b\n", false)]);
}

#[test]
fn test_parse_metadata() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        step("ENV a=1 b=\"2 3\""),
        Instruction::Env(vec![pair("a", "1"), pair("b", "\"2 3\"")])
    );
    assert_eq!(step("ENV a b c"), Instruction::Env(vec![pair("a", "b c")]));
    assert_eq!(step("LABEL x.y=z"), Instruction::Label(vec![pair("x.y", "z")]));
    assert_eq!(step("EXPOSE 80 53/udp"), Instruction::Expose(owned(&["80", "53/udp"])));
    assert_eq!(step("VOLUME [\"/a b\"]"), Instruction::Volume(owned(&["/a b"])));
    assert_eq!(step("VOLUME /a /b"), Instruction::Volume(owned(&["/a", "/b"])));
    assert_eq!(step("SHELL [\"sh\", \"-ec\"]"), Instruction::Shell(owned(&["sh", "-ec"])));
    assert_eq!(step("STOPSIGNAL 9"), Instruction::StopSignal("9".into()));
    assert_eq!(step("MAINTAINER me <a@b>"), Instruction::Maintainer("me <a@b>".into()));
    assert_eq!(step("HEALTHCHECK NONE"), Instruction::Healthcheck(Healthcheck::default()));
    assert_eq!(
        step("HEALTHCHECK --interval=1m30s --retries=2 CMD curl x"),
        Instruction::Healthcheck(Healthcheck {
            command: Some(Command::Shell("curl x".into())),
            interval_ns: Some(90_000_000_000),
            retries: Some(2),
            ..Healthcheck::default()
        })
    );
}

#[test]
fn test_parse_what_is_not_done_is_an_error_with_its_line() {
    for (instruction, said) in [
        ("ONBUILD RUN x", "ONBUILD is not supported"),
        ("RUN --mount=type=cache,target=/x y", "RUN --mount is not supported"),
        ("ADD https://x.org/y /z", "ADD of the address https://x.org/y is not supported"),
        ("COPY --link a b", "COPY --link is not supported"),
        ("COPY --frm=a b c", "COPY has no flag --frm"),
        ("ADD --from=a b c", "ADD has no flag --from"),
        ("COPY a", "a source and a target are needed"),
        ("COPY --from a b", "--from has no value"),
        ("RUN", "RUN: nothing is given"),
        ("RUN <<E\n#!/bin/python\nE", "with a #! line is not supported"),
        ("RUNN x", "there is no instruction RUNN"),
        ("ENV x", "has no value"),
        ("ENV a='b", "a quotation by ' is not closed"),
        ("SHELL sh", "not a JSON list"),
        ("HEALTHCHECK --interval=x CMD y", "--interval is no time"),
        ("HEALTHCHECK x", "neither CMD"),
        ("FROM", "no image is named"),
        ("FROM a AS 0", "\"0\" is no name of a stage"),
        ("FROM a b", "more than an image"),
        ("WORKDIR", "nothing is given"),
        ("ARG a-b", "\"a-b\" is no name"),
    ] {
        let text = error(&format!("# comment\nFROM scratch AS x\n\n{instruction}\n"));
        assert!(text.starts_with("Dockerfile line 4: ") && text.contains(said), "{text}");
    }
    assert!(error("RUN x").contains("line 1: RUN stands before the first FROM"));
    assert!(error("# nothing\n").contains("the file has no FROM"));
    assert!(error("FROM a AS x\nFROM b AS X\n").contains("line 2: a stage named x"));
    let not_text = Dockerfile::parse(b"FROM a\nRUN \xff\n").unwrap_err();
    assert_eq!((not_text.line, not_text.problem), (2, DockerfileProblem::NotUtf8));
    assert!(Dockerfile::parse(&vec![b' '; FILE_MAX_BYTES + 1]).is_err());
}

proptest! {
    #[test]
    fn test_parse_of_any_text_returns(text in "(?s)(FROM|RUN|COPY|ENV|ARG|<<E|[ \\\\\n\"'$#{}=\\[\\]a-z])*") {
        let _ = Dockerfile::parse(text.as_bytes());
    }
}
