//! Every example runs to its end. Their own asserts say what went wrong.
//!
//! Each is built into this test as a module and its `main` is called. Cargo tells a test the place of the package's
//! programs, but not of its examples, and `cargo test --test examples` would not build them anew: this way what runs
//! here is what stands in the file.

#[path = "../examples/async_sink.rs"]
mod async_sink;
#[path = "../examples/exactly_once.rs"]
mod exactly_once;
#[path = "../examples/hot_loop.rs"]
mod hot_loop;
#[path = "../examples/http_partial.rs"]
mod http_partial;
#[path = "../examples/parked.rs"]
mod parked;
#[path = "../examples/quick_start.rs"]
mod quick_start;
#[path = "../examples/redis_streams.rs"]
mod redis_streams;
#[cfg(feature = "cli")]
#[path = "../examples/service.rs"]
mod service;
#[cfg(feature = "tracing")]
#[path = "../examples/tracing_layer.rs"]
mod tracing_layer;

/// One test for each, of the same name.
macro_rules! runs {
    ($($(#[$cfg:meta])? $name:ident => $example:ident;)*) => {
        /// What is run here.
        const EXAMPLES: &[&str] = &[$(stringify!($example)),*];
        $(
            $(#[$cfg])?
            #[test]
            fn $name() {
                $example::main().expect("the example succeeds");
            }
        )*
    };
}

runs! {
    the_async_sink_runs => async_sink;
    exactly_once_runs => exactly_once;
    the_hot_loop_runs => hot_loop;
    http_with_partial_failure_runs => http_partial;
    the_parked_entries_run => parked;
    the_quick_start_runs => quick_start;
    redis_streams_run => redis_streams;
    #[cfg(feature = "cli")]
    the_service_runs => service;
    #[cfg(feature = "tracing")]
    the_tracing_layer_runs => tracing_layer;
}

/// Programs of tests, which run elsewhere.
const PROGRAMS: &[&str] = &["counts", "overload", "stress", "torture"];

#[test]
fn every_example_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for file in std::fs::read_dir(folder).expect("the folder is there") {
        let name = file.expect("it can be read").file_name().into_string().expect("names are UTF-8");
        let name = name.trim_end_matches(".rs");
        assert!(EXAMPLES.contains(&name) || PROGRAMS.contains(&name), "nothing runs the example {name}");
    }
}
