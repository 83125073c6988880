//! Good pipelines and the graphs they become.

use std::{path::Path, time::Duration};

use natron_artifacts::{Gpu, Threads};
use natron_runner::{
    DeviceChoice, Graph, InputEdge, Instance, LoadOptions, Numeric, OnFailure, load, load_text,
};
use serde_json::json;

use crate::toys;

fn graph(text: &str) -> Graph {
    with_options(text, &LoadOptions::default()).unwrap()
}

fn with_options(text: &str, options: &LoadOptions) -> Result<Graph, String> {
    load_text("p.toml", text, options, &toys::registry()).map_err(|mistakes| {
        mistakes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.instances.iter().map(|i| i.name.as_str()).collect()
}

fn named<'g>(graph: &'g Graph, name: &str) -> &'g Instance {
    &graph.instances[graph.position(name).unwrap_or_else(|| panic!("no {name}"))]
}

/// Names of what comes into a port, with the output.
fn into(graph: &Graph, name: &str, port: &str) -> Vec<String> {
    named(graph, name).inputs[port]
        .iter()
        .map(|edge| match edge {
            InputEdge::Output { instance, output } => {
                format!("{}.{output}", graph.instances[*instance].name)
            }
            InputEdge::File { path } => path.display().to_string(),
        })
        .collect()
}

const START: &str = "[stages.load]\nuses = \"load.synthetic\"\n[stages.features]\nuses = \"features\"\ninputs.candles = \"load\"\n";

fn after_start(more: &str) -> String {
    format!("{START}{more}")
}

const TRAIN: &str =
    "[stages.train]\nuses = \"toy.train\"\ninputs.features = \"features\"\nwith.epochs = 1\n";

#[test]
fn limits_ask_for_a_process_and_are_checked() {
    let limited = graph(&after_start(&format!(
        "{TRAIN}limits = {{ memory = \"2 GiB\", processes = 100, cpu_seconds = 60 }}\n"
    )));
    let train = named(&limited, "train");
    assert!(train.isolated);
    assert_eq!(train.limits.memory_bytes, Some(2 << 30));
    assert_eq!(train.limits.processes, Some(100));
    assert_eq!(train.limits.cpu_seconds, Some(60));
    assert!(!named(&limited, "features").isolated);
    let isolated = graph(&after_start(&format!("{TRAIN}isolation = \"process\"\n")));
    assert!(named(&isolated, "train").isolated);

    for (text, expected) in [
        ("limits.memory = 0", "nothing runs without memory"),
        ("limits.memory = \"2 GB\"", "expected bytes, as `4 GiB`"),
        ("limits.processes = 0", "`processes` is 0, expected 1 to"),
        ("limits.proceses = 1", "`limits` has no key `proceses`"),
        ("isolation = \"proces\"", "`isolation` cannot be `proces`"),
    ] {
        let text = after_start(&format!("{TRAIN}{text}\n"));
        let mistakes = with_options(&text, &LoadOptions::default()).err().unwrap();
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

#[test]
fn orders_stages_by_need_then_name() {
    let graph = graph(
        "[stages.a]\nuses = \"features\"\ninputs.candles = \"z.candles\"\n\
         [stages.z]\nuses = \"load.synthetic\"\n[stages.b]\nuses = \"load.synthetic\"\n",
    );

    assert_eq!(names(&graph), ["b", "z", "a"]);
    assert_eq!(into(&graph, "a", "candles"), ["z.candles"]);
    assert_eq!(graph.edges.edge_count(), 1);
    let edge = graph.edges.edge_indices().next().unwrap();
    let (producer, consumer) = graph.edges.edge_endpoints(edge).unwrap();
    assert_eq!((graph.edges[producer], graph.edges[consumer]), (1, 2));
    assert_eq!(graph.edges[edge].output, "candles");
    assert_eq!(graph.edges[edge].port, "candles");
}

#[test]
fn reads_the_pipeline_table() {
    let graph = graph(&format!(
        "[pipeline]\nname = \"x\"\nseed = 7\nnumeric = \"native\"\ndevice = \"auto\"\n{START}"
    ));

    assert_eq!((graph.name.as_str(), graph.seed), ("x", 7));
    assert_eq!(graph.numeric, Numeric::Native);
    assert_eq!(graph.device, DeviceChoice::Auto);
}

#[test]
fn has_defaults_for_the_pipeline_table() {
    let graph = graph(START);

    assert_eq!((graph.name.as_str(), graph.seed), ("p", 0));
    assert_eq!(graph.numeric, Numeric::Portable);
    assert_eq!(graph.device, DeviceChoice::Cpu);
}

#[test]
fn fills_parameters_in() {
    let text = "[params]\nrows = 10\nstart = \"2020\"\nboth = { rows = 3, start_price = 1.0 }\n\
        [stages.a]\nuses = \"load.synthetic\"\nwith = { rows = \"${params.rows}\", start = \"${params.start}-01-0${params.both.rows}\" }\n\
        [stages.b]\nuses = \"load.synthetic\"\nwith = \"${params.both}\"\n\
        [stages.c]\nuses = \"load.synthetic\"\nwith.start = 2020-01-02\n";

    let graph = graph(text);

    assert_eq!(
        named(&graph, "a").key_parameters,
        json!({"rows": 10, "start": "2020-01-03", "start_price": 30000.0})
    );
    assert_eq!(named(&graph, "b").key_parameters["start_price"], json!(1.0));
    assert_eq!(named(&graph, "c").key_parameters["start"], "2020-01-02");
    assert_eq!(graph.params["both"]["rows"], 3);
    assert!(graph.warnings.is_empty());
}

#[test]
fn warns_of_parameters_that_nothing_reads() {
    let graph = graph(&format!("[params]\na = 1\n{START}"));

    assert_eq!(
        graph.warnings[0].to_string(),
        "p.toml:2:1: warning[N0101]: nothing reads the parameter `a` (use it as `${params.a}`, or take it away)"
    );
}

#[test]
fn leaves_references_to_ports_for_the_stage() {
    let text = after_start(
        "[stages.plug]\nuses = \"command\"\ninputs.raw = \"features\"\ninputs.rules = { file = \"Cargo.toml\" }\n\
         with.run = [\"x\", \"${inputs.raw}\", \"$${HOME}\"]\nwith.outputs.out = \"table\"\n",
    );

    let graph = with_options(
        &text,
        &LoadOptions {
            workspace: env!("CARGO_MANIFEST_DIR").into(),
            ..LoadOptions::default()
        },
    )
    .unwrap();

    let plug = named(&graph, "plug");
    assert_eq!(
        plug.key_parameters["run"],
        json!(["x", "${inputs.raw}", "${HOME}"])
    );
    assert_eq!(into(&graph, "plug", "raw"), ["features.features"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert_eq!(plug.inputs["rules"], [InputEdge::File { path }]);
}

#[test]
fn lays_profiles_and_assignments_over_the_file() {
    let text = "[params]\nrows = 1\n[stages.a]\nuses = \"load.synthetic\"\nwith.rows = \"${params.rows}\"\n\
        [profiles.big.params]\nrows = 100\n[profiles.big.stages.a]\nretries = 2\nwith.start_price = 5.0\n\
        [profiles.big.stages.b]\nuses = \"load.synthetic\"\n[profiles.big.pipeline]\nseed = 3\n";
    let options = |profile: Option<&str>, sets: &[&str]| LoadOptions {
        profile: profile.map(str::to_owned),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        ..LoadOptions::default()
    };

    let plain = with_options(text, &options(None, &[])).unwrap();
    let big = with_options(text, &options(Some("big"), &[])).unwrap();
    let set = with_options(
        text,
        &options(Some("big"), &["params.rows=7", "a.start=now"]),
    )
    .unwrap();

    assert_eq!(names(&plain), ["a"]);
    assert_eq!(named(&plain, "a").key_parameters["rows"], 1);
    assert_eq!(names(&big), ["a", "b"]);
    assert_eq!(named(&big, "a").key_parameters["rows"], 100);
    assert_eq!(named(&big, "a").key_parameters["start_price"], 5.0);
    assert_eq!((named(&big, "a").retries, big.seed), (2, 3));
    assert_eq!(named(&set, "a").key_parameters["rows"], 7);
    assert_eq!(named(&set, "a").key_parameters["start"], "now");
    assert_ne!(plain.text_digest, big.text_digest);
    assert_ne!(set.text_digest, big.text_digest);
}

#[test]
fn joins_axes_of_the_same_name() {
    let graph = graph(&after_start(&format!(
        "{TRAIN}matrix = {{ fold = [0, 1], lr = [0.1, 1e-4] }}\nwith.extra = [\"${{matrix.fold}}\", \"${{matrix.lr}}\"]\n\
         [stages.judge]\nuses = \"toy.evaluate\"\ninputs.model = \"train[lr=0.1].model\"\nmatrix.fold = [0, 1]\n\
         [stages.all]\nuses = \"toy.summarize\"\ninputs.results = [\"judge[*]\", \"train[*].log\"]\n\
         [stages.each]\nuses = \"toy.summarize\"\ninputs.results = \"train[lr=*].log\"\nmatrix.fold = [1]\n"
    )));

    assert_eq!(
        into(&graph, "judge[fold=1]", "model"),
        ["train[fold=1,lr=0.1].model"]
    );
    assert_eq!(
        into(&graph, "all", "results"),
        [
            "judge[fold=0].metrics",
            "judge[fold=1].metrics",
            "train[fold=0,lr=0.1].log",
            "train[fold=0,lr=1e-4].log",
            "train[fold=1,lr=0.1].log",
            "train[fold=1,lr=1e-4].log",
        ]
    );
    assert_eq!(
        into(&graph, "each[fold=1]", "results"),
        ["train[fold=1,lr=0.1].log", "train[fold=1,lr=1e-4].log"]
    );
    let train = named(&graph, "train[fold=1,lr=1e-4]");
    assert_eq!(train.key_parameters["extra"], json!([1, 1e-4]));
    assert_eq!(train.coordinates["lr"], json!(1e-4));
    assert_eq!(graph.of_stage("train").count(), 4);
    assert_eq!(
        into(&graph, "train[fold=0,lr=0.1]", "features"),
        ["features.features"]
    );
}

#[test]
fn chooses_instances_by_value() {
    let graph = graph(
        "[stages.load]\nuses = \"load.synthetic\"\nmatrix = { pair = [\"a/b\", \"c\"], n = [1, 2] }\nwith.rows = \"${matrix.n}\"\n\
         [stages.x]\nuses = \"features\"\ninputs.candles = \"load[pair=\\\"a/b\\\",n=2]\"\n\
         [stages.y]\nuses = \"features\"\ninputs.candles = \"load[pair=${matrix.of},n=1].candles\"\nmatrix.of = [\"c\"]\n",
    );

    assert_eq!(
        into(&graph, "x", "candles"),
        ["load[n=2,pair=\"a/b\"].candles"]
    );
    assert_eq!(
        into(&graph, "y[of=c]", "candles"),
        ["load[n=1,pair=c].candles"]
    );
}

#[test]
fn when_switches_instances_off() {
    let graph = graph(&after_start(&format!(
        "[stages.pre]\nuses = \"toy.train\"\ninputs.features = \"features\"\nwith.epochs = 1\nwhen = false\n\
         {TRAIN}inputs.encoder = \"pre.model\"\nmatrix = {{ fold = [0, 1], run = [true, false] }}\nwhen = \"${{matrix.run}}\"\n\
         [stages.all]\nuses = \"toy.summarize\"\ninputs.results = \"train[*].log\"\n"
    )));

    assert_eq!(
        names(&graph),
        [
            "load",
            "features",
            "train[fold=0,run=true]",
            "train[fold=1,run=true]",
            "all"
        ]
    );
    assert_eq!(into(&graph, "all", "results").len(), 2);
    let train = named(&graph, "train[fold=0,run=true]");
    assert!(
        !train.inputs.contains_key("encoder"),
        "an optional input of a stage that is off is left out"
    );
}

#[test]
fn seeds_follow_kind_and_seed_axes() {
    let text = |root: u64| {
        format!(
            "[pipeline]\nseed = {root}\n[stages.a]\nuses = \"load.synthetic\"\n[stages.b]\nuses = \"load.synthetic\"\n\
             [stages.c]\nuses = \"load.synthetic\"\nseed = 5\n[stages.e]\nuses = \"load.synthetic\"\nseed = \"auto\"\n\
             [stages.f]\nuses = \"features\"\ninputs.candles = \"a\"\n\
             [stages.m]\nuses = \"load.synthetic\"\nmatrix = {{ seed = [1, 2], x = [1, 2], y = [1, 2] }}\nseed_axes = [\"x\"]\n\
             [stages.n]\nuses = \"load.synthetic\"\nmatrix = {{ k = [3, 4] }}\nseed = \"${{matrix.k}}\"\n"
        )
    };
    let graph_a = graph(&text(1));
    let graph_b = graph(&text(2));
    let seed = |name: &str| named(&graph_a, name).seed;

    assert_eq!(seed("a"), seed("b"), "never the name of the stage");
    assert_eq!(seed("a"), seed("e"));
    assert_ne!(seed("a"), seed("f"), "the kind");
    assert_ne!(seed("a"), named(&graph_b, "a").seed, "the root seed");
    assert_eq!(seed("c"), 5);
    assert_eq!(named(&graph_b, "c").seed, 5);
    assert_ne!(seed("m[seed=1,x=1,y=1]"), seed("m[seed=2,x=1,y=1]"));
    assert_ne!(seed("m[seed=1,x=1,y=1]"), seed("m[seed=1,x=2,y=1]"));
    assert_eq!(seed("m[seed=1,x=1,y=1]"), seed("m[seed=1,x=1,y=2]"));
    assert_eq!(seed("n[k=4]"), 4);
    // Pinned: another value would rerun every stage that draws.
    assert_eq!(seed("a"), 1_210_745_205_627_663_467);
}

#[test]
fn reads_what_a_stage_needs_to_run() {
    let graph = graph(&after_start(&format!(
        "{TRAIN}retries = 3\ntimeout = \"1h30m\"\non_failure = \"continue\"\nsalt = \"again\"\n\
         resources = {{ threads = 4, memory = \"2 GiB\", gpu = \"auto\", tokens = {{ license = 2 }} }}\n\
         views.model = \"out/./model.safetensors\"\n"
    )));

    let train = named(&graph, "train");
    assert_eq!(train.retries, 3);
    assert_eq!(train.timeout, Some(Duration::from_mins(90)));
    assert_eq!(train.on_failure, OnFailure::Continue);
    assert_eq!(train.salt.as_deref(), Some("again"));
    assert_eq!(train.resources.threads, Threads::Count(4));
    assert_eq!(train.resources.memory_bytes, 2 << 30);
    assert_eq!(train.resources.gpu, Gpu::Auto);
    assert_eq!(train.tokens["license"], 2);
    assert_eq!(train.views["model"], Path::new("./out/model.safetensors"));
    assert_eq!(named(&graph, "features").resources.threads, Threads::All);
}

#[test]
fn sources_are_no_parameters_of_the_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "").unwrap();
    std::fs::write(folder.path().join("clean.py"), "").unwrap();
    let text = "[stages.load]\nuses = \"load.csv\"\nwith.path = \"a.csv\"\n\
        [stages.plug]\nuses = \"command\"\nwith = { run = [\"x\"], outputs = {}, sources = [\"clean.py\"] }\n";

    let graph = with_options(
        text,
        &LoadOptions {
            workspace: folder.path().into(),
            ..LoadOptions::default()
        },
    )
    .unwrap();

    let load = named(&graph, "load");
    assert_eq!(load.key_parameters, json!({}));
    assert_eq!(load.sources["path"], folder.path().join("a.csv"));
    assert_eq!(load.parsed.parameters["path"], "a.csv");
    let plug = named(&graph, "plug");
    assert_eq!(plug.key_parameters["sources"], json!(["clean.py"]));
    assert_eq!(plug.sources["sources.0"], folder.path().join("clean.py"));
}

#[test]
fn secrets_stay_references() {
    let graph = graph(&after_start(&format!(
        "{TRAIN}with.extra = {{ token = {{ env = \"HOME\" }} }}\n"
    )));

    assert_eq!(
        named(&graph, "train").key_parameters["extra"],
        json!({"token": {"env": "HOME"}})
    );
}

#[test]
fn reports_all_mistakes_of_one_with() {
    let error = with_options(
        &after_start(
            "[stages.train]\nuses = \"toy.train\"\ninputs.features = \"features\"\n\
             with = { layers = [1, \"2\", -3], optimizer = { rat = 1, name = \"adm\" }, extra = [nan, 1, inf], epoch = 3 }\n",
        ),
        &LoadOptions::default(),
    )
    .err()
    .unwrap();

    let describes = "`natron stages toy.train` describes its parameters";
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            format!("p.toml:9:23: error[N0014]: toy.train: invalid type: string \"2\", expected a whole number, 0 or more ({describes})"),
            format!("p.toml:9:28: error[N0014]: toy.train: invalid value: integer `-3`, expected a whole number, 0 or more ({describes})"),
            format!("p.toml:9:47: error[N0013]: `optimizer` of `toy.train` has no parameter `rat` (did you mean `rate`? {describes})"),
            format!("p.toml:9:63: error[N0014]: toy.train: unknown variant `adm`, expected `adam` or `momentum` (did you mean `adam`? {describes})"),
            "p.toml:9:81: error[N0016]: toy.train: `extra.0` is NaN (parameters are finite numbers)".to_owned(),
            "p.toml:9:89: error[N0016]: toy.train: `extra.2` is inf (parameters are finite numbers)".to_owned(),
            format!("p.toml:9:95: error[N0013]: `toy.train` has no parameter `epoch` (did you mean `epochs`? {describes})"),
        ]
    );
}

#[test]
fn finds_every_missing_parameter() {
    let error = with_options(
        "[stages.plug]\nuses = \"command\"\n",
        &LoadOptions::default(),
    )
    .err()
    .unwrap();

    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.contains("missing parameter `run`"), "{error}");
    assert!(error.contains("missing parameter `outputs`"), "{error}");
}

#[test]
fn refusals_stand_at_the_parameter() {
    let error = with_options(
        &after_start(&format!("{TRAIN}with.optimizer = {{ rate = -1.0 }}\n")),
        &LoadOptions::default(),
    )
    .err()
    .unwrap();

    assert_eq!(
        error,
        "p.toml:10:27: error[N0015]: toy.train: the rate is below 0 (1e-4 is usual)"
    );
}

#[test]
fn one_mistake_does_not_hide_those_below() {
    // `train` lacks a parameter, so nothing is known of its outputs' contents; their names are checked all the same.
    let error = with_options(
        &after_start(
            "[stages.train]\nuses = \"toy.train\"\ninputs.features = \"features\"\nwith = { epochs = 1, epoch = 2 }\n\
             [stages.judge]\nuses = \"toy.evaluate\"\ninputs.model = \"train.modle\"\n\
             [stages.sum]\nuses = \"toy.summarize\"\ninputs.results = \"judge.metric\"\n",
        ),
        &LoadOptions::default(),
    )
    .err()
    .unwrap();

    let codes: Vec<&str> = error
        .lines()
        .map(|line| line.split(['[', ']']).nth(1).unwrap())
        .collect();
    assert_eq!(codes, ["N0013", "N0019", "N0019"], "{error}");
}

#[test]
fn points_into_the_assignment() {
    let error = with_options(
        "[params]\nrows = 1\n[stages.a]\nuses = \"load.synthetic\"\nwith.rows = \"${params.rows}\"\n",
        &LoadOptions {
            sets: vec!["params.rows=many".into(), "a.start_price=low".into(), "a.strat=1".into()],
            ..LoadOptions::default()
        },
    )
    .err()
    .unwrap();

    assert_eq!(
        error,
        "--set:1:13: error[N0014]: load.synthetic: invalid type: string \"many\", expected a whole number, 0 or more (`natron stages load.synthetic` describes its parameters)\n\
         --set:1:15: error[N0014]: load.synthetic: invalid type: string \"low\", expected a number (`natron stages load.synthetic` describes its parameters)\n\
         --set:1:3: error[N0013]: `load.synthetic` has no parameter `strat` (did you mean `start`? `natron stages load.synthetic` describes its parameters)"
    );
}

#[test]
fn counts_instances_of_the_whole_pipeline() {
    let text = "[stages.a]\nuses = \"load.synthetic\"\nmatrix.x = [1, 2, 3]\n[stages.b]\nuses = \"load.synthetic\"\nmatrix.x = [1, 2, 3]\n";
    let options = |max_instances| LoadOptions {
        max_instances,
        ..LoadOptions::default()
    };

    assert!(with_options(text, &options(6)).is_ok());
    let error = with_options(text, &options(5)).err().unwrap();
    assert!(error.contains("more than 5 instances"), "{error}");
}

#[test]
fn ten_thousand_instances_take_seconds() {
    let folds: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let axis = folds.join(", ");
    let text = after_start(&format!(
        "{TRAIN}matrix = {{ a = [{axis}], b = [{axis}] }}\nwith.extra = \"${{matrix.a}}\"\n\
         [stages.all]\nuses = \"toy.summarize\"\ninputs.results = \"train[*].log\"\n"
    ));

    let graph = with_options(
        &text,
        &LoadOptions {
            max_instances: 10_003,
            ..LoadOptions::default()
        },
    )
    .unwrap();

    assert_eq!(graph.instances.len(), 10_003);
    assert_eq!(into(&graph, "all", "results").len(), 10_000);
}

#[test]
fn says_when_the_file_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions::default();
    let missing = folder.path().join("none.toml");
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"a = 1\n# \xff\n").unwrap();

    let error = load(&missing, &options, &toys::registry()).err().unwrap();
    assert!(error[0].message.starts_with("cannot read"), "{}", error[0]);
    let error = load(&binary, &options, &toys::registry()).err().unwrap();
    assert!(error[0].message.ends_with("is not UTF-8"), "{}", error[0]);
    assert_eq!(error[0].position().map(|p| (p.1, p.2)), Some((2, 3)));
}
