//! End to end: the real binary, the real `kubectl`, real components and containers.
//!
//! Every body runs twice, `root::…` against a cluster of root's and `user::…` against one of an ordinary user's. What is said
//! of Pods must hold whatever is in them: bodies for `both` run once more, `oci::…`, with container images that do what the
//! components do. Some run on clusters of three machines, too. The tables below are the lists of them. A body starts the clusters that it needs, so that all may run side by
//! side.

mod access;
mod admission;
mod among;
mod autoscaling;
mod bad_input;
mod claims;
mod clients;
mod commands;
mod container_features;
mod container_images;
mod container_survival;
mod container_users;
mod containers;
mod context;
mod custom;
mod debugging;
mod env;
mod extension;
mod faults;
mod fleet;
mod front;
mod guests;
mod hostile;
mod image_faults;
mod images;
mod images_bad;
mod in_cluster;
mod ingress;
mod isolation;
mod jobs;
mod joining;
mod lifecycle;
mod limits;
mod logs;
mod manifests;
mod network;
mod observe;
mod pods;
mod policies;
mod probes;
mod proxying;
mod quick_start;
mod reading;
mod resize;
mod rollout;
mod scheduling;
mod services;
mod sockets;
mod starts;
mod streams;
mod survival;
mod updates;
mod volumes;
mod workloads;
mod writing;

/// A module per column and module of bodies, with a test for each body that is in the column.
macro_rules! suite {
    ($($module:ident { $($guests:ident [$($test:ident),* $(,)?])* })*) => {
        suite!(@column root, Root, Wasm, $($module { $($guests [$($test),*])* })*);
        suite!(@column user, Ordinary, Wasm, $($module { $($guests [$($test),*])* })*);
        suite!(@column oci, Root, Oci, $($module { $($guests [$($test),*])* })*);
    };
    (@column $column:ident, $user:ident, $runtime:ident, $($module:ident { $($guests:ident $tests:tt)* })*) => {
        mod $column {
            $(mod $module {
                $(suite!(@tests $guests, $user, $runtime, $module, $tests);)*
            })*
        }
    };
    (@tests wasm, $user:ident, Oci, $module:ident, $tests:tt) => {};
    (@tests $guests:ident, $user:ident, $runtime:ident, $module:ident, [$($test:ident),*]) => {
        $(#[test]
        fn $test() {
            use coracle_test_cluster::{Runtime, User};
            crate::context::run(User::$user, Runtime::$runtime, crate::$module::$test);
        })*
    };
}

/// The same bodies on clusters of three machines, a module for each kind of guests.
macro_rules! on_fleets {
    ($($module:ident [$($test:ident),* $(,)?])*) => {
        on_fleets!(@column three_machines, Wasm, $($module [$($test),*])*);
        on_fleets!(@column three_machines_oci, Oci, $($module [$($test),*])*);
    };
    (@column $column:ident, $runtime:ident, $($module:ident [$($test:ident),*])*) => {
        mod $column {
            $(mod $module {
                $(#[test]
                fn $test() {
                    use coracle_test_cluster::Runtime;
                    crate::context::run_on_fleet(Runtime::$runtime, crate::$module::$test);
                })*
            })*
        }
    };
}

on_fleets! {
    manifests [nginx_deployment, my_app_is_updated_under_load]
    rollout [history_undo_restart_and_pause, a_bad_image_keeps_the_old_pods, recreate]
    jobs [
        a_job_completes,
        failures_are_counted_and_end_it,
        indexes_are_told_and_done_once,
        jobs_are_suspended_and_resumed,
        cron_jobs_make_jobs,
    ]
    workloads [stateful_pods_keep_their_names]
    network [services_balance, guests_call_services, readiness_decides]
    autoscaling [replicas_follow_the_load]
    volumes [every_kind_is_mounted, a_token_calls_the_api_while_its_pod_lives]
    logs [tail_since_and_follow, previous_and_selectors]
    streams [exec_and_attach]
    writing [deletes_cascade, namespaces_go_with_their_content]
}

suite! {
    quick_start {
        // `coracle run` takes a component, and so do the examples.
        wasm [
            a_file_becomes_a_service,
            a_command_runs_to_its_end,
            the_example_manifest_rolls,
            up_applies_files_and_prints_urls,
            status_says_what_is_not_well,
        ]
    }
    manifests {
        both [nginx_deployment, my_app_is_updated_under_load]
    }
    rollout {
        both [history_undo_restart_and_pause, a_bad_image_keeps_the_old_pods, recreate]
    }
    updates {
        both [new_code_is_compiled_before_the_old_pod_stops, an_update_without_surge_drops_nothing]
        // An upgrade that has to compile anew: containers do not (`containers` has what happens to theirs).
        wasm [the_program_is_upgraded_under_load]
    }
    ingress {
        both [
            the_manifest_leads_to_its_services,
            an_ingress_leads_to_what_a_service_stands_for,
            certificates_change_under_load,
            a_rolling_update_behind_an_ingress_drops_nothing,
            ingresses_outlive_the_agent,
            grpc_passes_through,
        ]
        // Each Pod with containers has a namespace of its own.
        wasm [requests_begin_where_the_pod_is]
    }
    jobs {
        both [
            a_job_completes,
            failures_are_counted_and_end_it,
            indexes_are_told_and_done_once,
            jobs_are_suspended_and_resumed,
            cron_jobs_make_jobs,
        ]
    }
    workloads {
        both [daemons_are_on_every_node, stateful_pods_keep_their_names, budgets_hold_up_a_drain]
    }
    autoscaling {
        both [replicas_follow_the_load, replicas_follow_what_pods_serve]
        // About the API alone.
        wasm [kubectl_makes_and_shows_them]
    }
    survival {
        both [the_agent_is_killed_under_load, up_is_killed_under_load, up_finds_everything_again]
        // A Wasm host's death (a shim's is in `containers`), and the store's promise.
        wasm [the_host_is_killed, no_acknowledged_write_is_lost]
    }
    isolation {
        // About Wasm hosts.
        wasm [
            namespaces_have_hosts_of_their_own,
            a_pod_alone_serves_calls_and_survives_the_agent,
            hosts_may_do_little,
        ]
    }
    guests {
        // About languages that components are written in.
        wasm [
            javascript_serves,
            python_serves,
            go_runs,
            c_serves,
            config_and_logging_are_offered,
            wasi_0_3_serves,
            wasi_0_3_runs,
        ]
    }
    in_cluster {
        // TLS on a component's behalf.
        wasm [a_pod_calls_the_api, certificates_are_believed_where_asked]
    }
    sockets {
        both [
            a_tcp_server_is_behind_a_service,
            a_udp_server_answers,
            pods_of_a_headless_service_have_names,
        ]
        // About what components are granted.
        wasm [what_is_not_granted_is_named]
    }
    network {
        both [services_balance, guests_call_services, readiness_decides]
    }
    images_bad {
        // About what is wrong with components.
        wasm [
            bad_images_wait_and_say_why,
            a_compile_bomb_ends_and_says_why,
            core_modules_run,
            inspect_tells_what_a_component_wants,
        ]
    }
    pods {
        both [
            restart_policies,
            a_missing_image_is_waited_for,
            a_failing_liveness_probe_restarts,
            files_and_environment,
            a_node_offers_disk_and_only_its_own_runtimes,
        ]
        // About components, about those who share a host, and about the scheduler, which sees no images.
        wasm [
            what_is_no_component_is_named,
            one_guest_harms_no_other,
            what_cannot_be_scheduled_says_why,
        ]
    }
    front {
        // About the HTTP server that components have.
        wasm [
            annotations_bound_requests,
            instances_serve_again_on_request,
            a_trap_is_an_event_with_its_backtrace_in_the_log,
        ]
    }
    observe {
        both [usage_is_seen_by_kubectl_top]
        // Metrics and logs of the HTTP server that components have.
        wasm [metrics_of_every_part, the_access_log_is_in_the_pods_log]
    }
    volumes {
        both [
            every_kind_is_mounted,
            changes_are_seen_by_running_guests,
            a_full_empty_dir_is_evicted,
            a_token_calls_the_api_while_its_pod_lives,
            a_token_is_replaced_before_it_ends,
            volumes_of_pods_that_went_meanwhile_go,
            a_pod_waits_for_what_it_mounts,
            paths_of_the_machine_where_allowed,
        ]
    }
    claims {
        both [
            a_claim_is_a_folder_of_the_machine,
            local_volumes_are_found_with_the_node,
            a_port_of_the_machine_is_one_pods,
        ]
    }
    env {
        both [every_source, services_are_told_of, what_is_missing_is_waited_for]
    }
    resize {
        both [limits_change_while_it_runs, a_policy_may_want_a_restart]
    }
    limits {
        both [memory_is_a_containers_own_trouble, a_flood_stays_in_its_log]
        // What one instance of a component does to others of the same container.
        wasm [hostile_guests_harm_no_neighbour]
    }
    lifecycle {
        both [
            init_containers_go_first,
            sidecars_outlive_the_containers_they_serve,
            hooks_run_and_their_failures_are_told,
            last_words_are_kept,
            an_agent_that_returns_goes_on,
        ]
        // About annotations that components are configured by.
        wasm [annotations_are_read_at_the_start]
    }
    probes {
        both [of_every_kind, decide_on_starts_and_restarts, readiness_has_gates]
    }
    logs {
        both [tail_since_and_follow, previous_and_selectors, over_websocket]
    }
    among {
        // About the API and controllers.
        wasm [work_goes_on]
    }
    reading {
        // About the API: Pods are only something to read.
        wasm [
            every_output_form,
            watches_and_selectors,
            describe_and_events,
            discovery,
            every_kubectl_version,
        ]
    }
    writing {
        // About the API.
        wasm [
            apply_patch_edit,
            server_side_apply,
            scale_and_wait,
            deletes_cascade,
            namespaces_go_with_their_content,
            dry_runs_store_nothing,
        ]
    }
    access {
        // About the API.
        wasm [can_i, a_service_account_may_what_its_role_says, who_shows_nothing_gets_nothing]
    }
    admission {
        // About the API; a container that may not be root needs an image that says who it is.
        wasm [
            a_quota_bounds_what_controllers_make,
            a_restricted_namespace_runs_what_says_all_it_must,
            a_webhook_that_is_not_there_stops_what_it_is_for,
        ]
    }
    proxying {
        both [pods_and_services_are_asked_through_the_server]
    }
    extension {
        // About the API.
        wasm [kubectl_uses_it_like_any_other]
    }
    policies {
        both [what_they_add_is_what_runs]
    }
    bad_input {
        // About the API.
        wasm [is_refused_with_the_field_named]
    }
    hostile {
        // About who asks.
        wasm [
            what_is_no_request_is_refused,
            numbers_beyond_time_end_no_controller,
            floods_of_frames_end_their_connection_alone,
            the_slow_and_the_absent_cost_little,
            agents_and_ingresses_refuse_them_too,
        ]
    }
    streams {
        both [
            every_kubectl_forwards,
            much_goes_through_a_forward,
            a_forward_says_what_is_wrong,
            forwards_reach_pods_apart_and_end_with_the_agent,
            exec_and_attach,
            the_kube_crate_forwards_and_attaches,
        ]
        // About containers that cannot be added.
        wasm [debug_adds_containers_that_wait]
    }
    starts {
        // About the command line.
        wasm [two_clusters_side_by_side, wrong_starts_say_what_to_do, wrong_commands_say_what_to_do]
    }
    clients {
        // About the API.
        wasm [the_kube_crate, a_watch_resumes, the_python_client, the_javascript_client]
    }
    commands {
        both [changing, looking]
        // About the API, and about containers, which it brings along.
        wasm [making, entering]
    }
    custom {
        // About the API.
        wasm [a_definition_as_kubectl_sees_it, an_operator]
    }
    images {
        // About components in registries; `container_images` is about the others.
        wasm [
            every_media_type_runs,
            a_container_image_runs_its_wasm,
            what_cannot_be_run_says_why,
            private_images_need_credentials,
            mirrors_are_asked_first,
            a_broken_connection_goes_on,
            a_pull_survives_the_agent,
            unused_images_go,
            other_clients_push,
        ]
    }
    image_faults {
        // About pulls, before an image is known to be of either kind.
        wasm [a_full_disk_fails_pulls_until_there_is_room, a_silent_registry_is_asked_again]
    }
    containers {
        // These bring images of both kinds along.
        wasm [
            a_web_server_is_served,
            web_and_cache_are_one_pod,
            both_kinds_write_into_one_volume,
            an_update_changes_the_kind_under_load,
            shims_outlive_the_agent_and_are_missed_when_killed,
        ]
    }
    container_images {
        // These bring images of their own along.
        wasm [container_images_are_unpacked_as_they_are, a_server_of_debians_is_pulled]
    }
    debugging {
        // These bring images of their own along.
        wasm [
            debug_joins_a_pod_that_runs,
            debug_in_wasm_pods,
            what_was_added_outlives_the_agent,
            debug_looks_at_a_node,
            exec_and_cp_and_attach,
        ]
    }
    container_features {
        // These bring images of their own along.
        wasm [
            hooks_and_probes_execute,
            namespaces_are_shared_as_asked,
            a_status_tells_what_a_container_was_started_as,
            a_last_line_without_an_end_gets_none,
            the_name_server_knows_what_the_specification_says,
            rights_are_given_and_taken,
            volumes_of_images_are_writable,
            programs_of_32_bits_run,
            a_missing_program_is_a_start_error,
            a_container_that_is_found_late_changes_the_sandbox,
            a_runtime_that_is_insisted_on_is_the_one,
            what_it_writes_counts_as_its_storage,
        ]
    }
    container_users {
        // These bring images of their own along.
        wasm [
            no_two_pods_share_users,
            files_and_rights_are_the_pods,
            proc_may_be_unmasked,
            what_cannot_be_is_said,
            components_are_beside_them,
        ]
    }
    container_survival {
        // These bring images of their own along.
        wasm [
            who_is_killed_comes_back_alone,
            all_is_lost_and_made_anew,
            another_program_takes_over,
            mounts_pass_on_as_asked,
        ]
    }
    joining {
        both [certificates_are_renewed]
        // About machines, whatever their Pods are.
        wasm [
            tokens_let_machines_join,
            up_leaves_no_token,
            certificates_are_asked_for_and_approved,
            a_taken_name_is_refused,
            nodes_keep_to_themselves,
        ]
    }
    scheduling {
        both [pods_keep_their_distance, the_urgent_preempt, machines_are_drained]
    }
    fleet {
        both [
            pods_reach_each_other,
            supervisors_may_be_away,
            a_lost_machine_is_replaced,
            a_hidden_machine_is_reached,
            a_deleted_node_stays_away,
        ]
        // About machines, whatever their Pods are.
        wasm [overlapping_ranges_are_refused]
    }
    services {
        both [
            balancers_have_addresses_of_a_pool,
            callers_stay_with_their_pod,
            addresses_may_be_written_by_hand,
            nobody_there_is_a_refusal,
            policies_hold_across_machines,
            a_balancers_address_moves,
        ]
    }
    faults {
        both [
            nodes_go_on_without_the_server,
            two_machines_are_parted,
            packets_are_lost,
            the_server_is_restarted,
        ]
    }
}
