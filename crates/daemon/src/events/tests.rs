use super::*;
use crate::container::record::Exit;
use futures_util::StreamExt;

/// A pod of Kubernetes' without anything.
pub(crate) fn sample(state: PodState) -> PodInfo {
    PodInfo {
        id: "pod".into(),
        config: Arc::default(),
        origin: Origin::Kubernetes,
        handler: String::new(),
        created_at: 0,
        state,
        attachment: None,
        host_network: false,
        cgroup_parent: String::new(),
    }
}

fn pod(state: PodState) -> PodInfo {
    sample(state)
}

fn live(state: ContainerState, started_at: i64) -> Live {
    let exit = (state == ContainerState::Exited).then(|| Exit { started_at, ..Exit::default() });
    Live { exit, ..Live::at(state) }
}

fn change(hub: &Hub, before: ContainerState, change: Change, live: &Live) {
    hub.container_changed(Origin::Kubernetes, "c", || pod(PodState::Ready), (before, change), live);
}

async fn told(
    mut events: std::pin::Pin<Box<impl Stream<Item = Result<Arc<Event>, Error>>>>,
    n: usize,
) -> Vec<Happened> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(events.next().await.unwrap().unwrap().happened);
    }
    assert!(futures_util::poll!(events.next()).is_pending());
    all
}

#[tokio::test]
async fn every_follower_hears_everything_in_order() {
    let hub = Hub::default();
    change(&hub, ContainerState::Creating, Change::Created, &live(ContainerState::Created, 0));
    let (one, two) = (Box::pin(hub.follow()), Box::pin(hub.follow()));
    hub.pod_changed(PodState::Creating, || pod(PodState::Ready), Origin::Kubernetes);
    change(&hub, ContainerState::Creating, Change::Created, &live(ContainerState::Created, 0));
    change(&hub, ContainerState::Created, Change::Started, &live(ContainerState::Running, 0));
    change(&hub, ContainerState::Running, Change::Exited, &live(ContainerState::Exited, 1));
    hub.container_deleted(Origin::Kubernetes, "c", || pod(PodState::Ready));
    hub.pod_changed(PodState::Ready, || pod(PodState::Stopping), Origin::Kubernetes);
    hub.pod_changed(PodState::Stopping, || pod(PodState::NotReady), Origin::Kubernetes);
    hub.pod_changed(PodState::NotReady, || pod(PodState::Discarding), Origin::Kubernetes);
    hub.pod_deleted(&pod(PodState::Discarding));
    use Happened::{Created, Deleted, Started, Stopped};
    let wanted = [Created, Started, Created, Started, Stopped, Deleted, Stopped, Deleted];
    assert_eq!((hub.followers(), hub.cut_off()), (2, 0));
    assert_eq!(told(one, wanted.len()).await, wanted);
    assert_eq!(told(two, wanted.len()).await, wanted);
    assert_eq!(hub.followers(), 0);
}

#[tokio::test]
async fn a_short_program_is_told_to_have_started() {
    let hub = Hub::default();
    let events = Box::pin(hub.follow());
    change(&hub, ContainerState::Created, Change::Exited, &live(ContainerState::Exited, 5));
    assert_eq!(told(events, 2).await, [Happened::Started, Happened::Stopped]);
    // Killed at the barrier, it never was.
    let events = Box::pin(hub.follow());
    change(&hub, ContainerState::Created, Change::Exited, &live(ContainerState::Exited, 0));
    assert_eq!(told(events, 1).await, [Happened::Stopped]);
}

#[tokio::test]
async fn what_recovery_finds_and_what_is_not_kubernetes_is_not_told() {
    let hub = Hub::default();
    let events = Box::pin(hub.follow());
    change(&hub, ContainerState::Unknown, Change::Started, &live(ContainerState::Running, 0));
    let strata = || PodInfo { origin: Origin::Strata, ..pod(PodState::Ready) };
    hub.pod_changed(PodState::Creating, strata, Origin::Strata);
    hub.pod_deleted(&strata());
    change(&hub, ContainerState::Unknown, Change::Exited, &live(ContainerState::Exited, 1));
    assert_eq!(told(events, 1).await, [Happened::Stopped]);
}

#[tokio::test]
async fn a_slow_follower_is_cut_off_and_the_others_are_not() {
    let hub = Hub::with_backlog(4);
    let (mut slow, mut quick) = (Box::pin(hub.follow()), Box::pin(hub.follow()));
    for _ in 0..6 {
        hub.pod_deleted(&pod(PodState::Discarding));
        assert!(quick.next().await.unwrap().is_ok());
    }
    let refused = slow.next().await.unwrap().unwrap_err();
    assert_eq!((refused.kind(), hub.cut_off()), (Kind::ResourceExhausted, 1));
    assert!(refused.to_string().contains("2 are lost"), "{refused}");
    assert!(slow.next().await.is_none());
    hub.close();
    assert_eq!(quick.next().await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    assert!(quick.next().await.is_none());
}
