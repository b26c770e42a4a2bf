//! End to end: the real binary, the real `kubectl`, real components.
//!
//! Every body runs twice, `root::…` against a cluster of root's and `user::…` against one of an ordinary user's; the
//! table below is the list of them. A body starts the clusters that it needs, so that all may run side by side.

mod access;
mod bad_input;
mod clients;
mod context;
mod logs;
mod manifests;
mod network;
mod pods;
mod quick_start;
mod reading;
mod rollout;
mod starts;
mod survival;
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
    survival {
        the_agent_is_killed_under_load,
        up_is_killed_under_load,
        the_host_is_killed,
        up_finds_everything_again,
        no_acknowledged_write_is_lost,
    }
    network { services_balance, guests_call_services, readiness_decides }
    pods {
        restart_policies,
        a_missing_image_is_waited_for,
        what_is_no_component_is_named,
        a_failing_liveness_probe_restarts,
        one_guest_harms_no_other,
        files_and_environment,
        what_cannot_be_scheduled_says_why,
    }
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
    starts { two_clusters_side_by_side, wrong_starts_say_what_to_do }
    clients { the_kube_crate, a_watch_resumes }
}
