//! End to end: the real binary, the real `kubectl`, real components.
//!
//! Every body runs twice, `root::…` against a cluster of root's and `user::…` against one of an ordinary user's; the
//! table below is the list of them. A body starts the clusters that it needs, so that all may run side by side.

mod access;
mod bad_input;
mod clients;
mod container_features;
mod container_images;
mod container_survival;
mod containers;
mod context;
mod debugging;
mod env;
mod front;
mod guests;
mod image_faults;
mod images;
mod images_bad;
mod in_cluster;
mod isolation;
mod lifecycle;
mod limits;
mod logs;
mod manifests;
mod network;
mod observe;
mod pods;
mod probes;
mod quick_start;
mod reading;
mod rollout;
mod sockets;
mod starts;
mod streams;
mod survival;
mod updates;
mod volumes;
mod writing;

macro_rules! suite {
    ($($module:ident { $($test:ident),* $(,)? })*) => {
        suite!(@mode root, Root, $($module { $($test),* })*);
        suite!(@mode user, Ordinary, $($module { $($test),* })*);
    };
    (@mode $mode:ident, $user:ident, $($module:ident { $($test:ident),* })*) => {
        mod $mode {
            $(mod $module {
                $(#[test]
                fn $test() {
                    crate::context::run(coracle_test_cluster::User::$user, crate::$module::$test);
                })*
            })*
        }
    };
}

suite! {
    quick_start {
        a_file_becomes_a_service,
        a_command_runs_to_its_end,
        the_example_manifest_rolls,
        up_applies_files_and_prints_urls,
        status_says_what_is_not_well,
    }
    manifests { nginx_deployment, my_app_is_updated_under_load }
    rollout { history_undo_restart_and_pause, a_bad_image_keeps_the_old_pods, recreate }
    updates {
        new_code_is_compiled_before_the_old_pod_stops,
        an_update_without_surge_drops_nothing,
        the_program_is_upgraded_under_load,
    }
    survival {
        the_agent_is_killed_under_load,
        up_is_killed_under_load,
        the_host_is_killed,
        up_finds_everything_again,
        no_acknowledged_write_is_lost,
    }
    isolation {
        namespaces_have_hosts_of_their_own,
        a_pod_alone_serves_calls_and_survives_the_agent,
        hosts_may_do_little,
    }
    guests {
        javascript_serves,
        python_serves,
        go_runs,
        c_serves,
        config_and_logging_are_offered,
        wasi_0_3_serves,
        wasi_0_3_runs,
    }
    in_cluster { a_pod_calls_the_api, certificates_are_believed_where_asked }
    sockets { a_tcp_server_is_behind_a_service, a_udp_server_answers, what_is_not_granted_is_named }
    network { services_balance, guests_call_services, readiness_decides }
    images_bad {
        bad_images_wait_and_say_why,
        a_compile_bomb_ends_and_says_why,
        core_modules_run,
        inspect_tells_what_a_component_wants,
    }
    pods {
        restart_policies,
        a_missing_image_is_waited_for,
        what_is_no_component_is_named,
        a_failing_liveness_probe_restarts,
        one_guest_harms_no_other,
        files_and_environment,
        what_cannot_be_scheduled_says_why,
    }
    front {
        annotations_bound_requests,
        instances_serve_again_on_request,
        a_trap_is_an_event_with_its_backtrace_in_the_log,
    }
    observe {
        usage_is_seen_by_kubectl_top,
        metrics_of_every_part,
        the_access_log_is_in_the_pods_log,
    }
    volumes {
        every_kind_is_mounted,
        changes_are_seen_by_running_guests,
        a_full_empty_dir_is_evicted,
        a_token_calls_the_api_while_its_pod_lives,
        a_token_is_replaced_before_it_ends,
        volumes_of_pods_that_went_meanwhile_go,
        a_pod_waits_for_what_it_mounts,
        paths_of_the_machine_where_allowed,
    }
    env { every_source, services_are_told_of, what_is_missing_is_waited_for }
    limits {
        memory_is_a_containers_own_trouble,
        a_flood_stays_in_its_log,
        hostile_guests_harm_no_neighbour,
    }
    lifecycle {
        init_containers_go_first,
        sidecars_outlive_the_containers_they_serve,
        hooks_run_and_their_failures_are_told,
        last_words_are_kept,
        annotations_are_read_at_the_start,
        an_agent_that_returns_goes_on,
    }
    probes { of_every_kind, decide_on_starts_and_restarts, readiness_has_gates }
    logs { tail_since_and_follow, previous_and_selectors }
    reading {
        every_output_form,
        watches_and_selectors,
        describe_and_events,
        discovery,
        every_kubectl_version,
    }
    writing {
        apply_patch_edit,
        scale_and_wait,
        deletes_cascade,
        namespaces_go_with_their_content,
        dry_runs_store_nothing,
    }
    access { can_i, a_service_account_may_what_its_role_says, who_shows_nothing_gets_nothing }
    bad_input { is_refused_with_the_field_named }
    streams {
        every_kubectl_forwards,
        much_goes_through_a_forward,
        a_forward_says_what_is_wrong,
        forwards_reach_pods_apart_and_end_with_the_agent,
        debug_adds_containers_that_wait,
        exec_and_attach_to_wasm,
        the_kube_crate_forwards_and_attaches,
    }
    starts { two_clusters_side_by_side, wrong_starts_say_what_to_do, wrong_commands_say_what_to_do }
    clients { the_kube_crate, a_watch_resumes }
    images {
        every_media_type_runs,
        a_container_image_runs_its_wasm,
        what_cannot_be_run_says_why,
        private_images_need_credentials,
        mirrors_are_asked_first,
        a_broken_connection_goes_on,
        a_pull_survives_the_agent,
        unused_images_go,
        other_clients_push,
    }
    image_faults { a_full_disk_fails_pulls_until_there_is_room, a_silent_registry_is_asked_again }
    containers {
        a_web_server_is_served,
        web_and_cache_are_one_pod,
        both_kinds_write_into_one_volume,
        an_update_changes_the_kind_under_load,
        shims_outlive_the_agent_and_are_missed_when_killed,
    }
    debugging {
        debug_joins_a_pod_that_runs,
        debug_in_wasm_pods,
        debug_looks_at_a_node,
        exec_and_cp_and_attach,
    }
    container_features {
        hooks_and_probes_execute,
        namespaces_are_shared_as_asked,
        rights_are_given_and_taken,
        volumes_of_images_are_writable,
        programs_of_32_bits_run,
        a_missing_program_is_a_start_error,
        a_container_that_is_found_late_changes_the_sandbox,
        a_runtime_that_is_insisted_on_is_the_one,
    }
    container_survival {
        who_is_killed_comes_back_alone,
        all_is_lost_and_made_anew,
        another_program_takes_over,
        mounts_pass_on_as_asked,
    }
    container_images { container_images_are_unpacked_as_they_are, a_server_of_debians_is_pulled }
}
